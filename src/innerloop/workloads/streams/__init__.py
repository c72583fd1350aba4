"""Long inner loops over streams: weights of training examples, and sequence models that train at test time."""
