"""What a file or folder of the user is, and the command that trains on it."""
