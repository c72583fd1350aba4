"""The engine of every kind of run; it knows no workload."""
