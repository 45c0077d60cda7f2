"""Reading and writing of files: images, label maps, models and runs."""
