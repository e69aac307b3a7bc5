"""Video for sslx: a tokenizer and a small data set of moving shapes."""
