"""Shipped trackers, one a file: they send a run's notices elsewhere, and do nothing unless SSLX_TRACKERS names them."""
