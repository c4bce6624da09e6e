"""A local EC2 Instance Connect: its API, an instance's metadata and that instance's sshd."""
