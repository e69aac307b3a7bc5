"""A probe for sslx: cross-attention of one learned query over frozen tokens."""
