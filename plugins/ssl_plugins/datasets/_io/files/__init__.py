"""Lists the files of a data set: their kinds, their labels, and where each sample lies."""
