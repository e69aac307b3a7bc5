"""Reads images and captions in the forms that users have."""
