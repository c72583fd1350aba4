"""What can be run; no workload imports another."""
