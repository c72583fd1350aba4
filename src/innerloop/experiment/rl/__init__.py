"""Meta-reinforcement learning as the program runs it: recipes, training, evaluation, report."""
