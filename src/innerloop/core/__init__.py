"""The library: the inner loop, how derivatives flow back through it, and the outer step."""
