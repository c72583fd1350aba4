"""Episodes of sinusoids and images."""
