"""Shipped trackers, one per module: they forward a run's notices, and do nothing unless SSLX_TRACKERS names them."""
