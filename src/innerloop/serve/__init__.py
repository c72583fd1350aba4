"""A trained learner over HTTP."""
