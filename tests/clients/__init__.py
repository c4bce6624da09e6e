"""Clients that people use, unchanged, against the sandbox."""
