"""A user's own tasks, from a table or a folder of images."""
