"""MAML-RL."""
