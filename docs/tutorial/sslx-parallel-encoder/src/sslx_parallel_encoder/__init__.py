"""An encoder for sslx: attention and a gated MLP side by side in each block."""
