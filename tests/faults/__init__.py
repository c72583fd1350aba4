"""Faults put into runs: kills, disk errors, flipped bits, broken streams. `make test-faults` tries thousands."""
