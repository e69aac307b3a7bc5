"""Point clouds for sslx: a tokenizer of local patches and a small data set of shapes."""
