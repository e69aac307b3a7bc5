"""`sslx ui`: the runs and comparisons below a folder in the browser, read-only and on this machine alone."""
