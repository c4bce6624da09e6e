"""The instance side of EC2 Instance Connect: sshd's AuthorizedKeysCommand."""

__version__ = "0.1.0"
