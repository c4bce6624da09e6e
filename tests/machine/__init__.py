"""Whole Debian machines with systemd, booted in containers, and what the packages do to them."""
