"""A command for sslx: a leaderboard of finished runs."""
