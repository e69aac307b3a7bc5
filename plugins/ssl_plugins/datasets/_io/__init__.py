"""File readers and split rules shared by the data sets."""
