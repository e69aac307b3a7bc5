"""Code that exists only for speed. Each module is one technique with one option to turn it off."""
