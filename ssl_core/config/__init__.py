"""The run configuration and how it is resolved."""
