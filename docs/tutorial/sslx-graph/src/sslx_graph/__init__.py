"""Graphs for sslx: a tokenizer with a token for each node and a small data set of graph families."""
