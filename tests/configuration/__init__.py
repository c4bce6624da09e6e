"""Logins through a real sshd."""
