"""The learner of tables and of folders of images, as a library."""
