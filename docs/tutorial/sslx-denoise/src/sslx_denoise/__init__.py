"""A denoising objective for sslx."""
