"""Experiments: the only part of innerloop that reads files, prints, and knows what a configuration is."""
