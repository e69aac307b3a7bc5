"""Recognises what the user's files hold: which modality, how sure, and with which options they are read."""
