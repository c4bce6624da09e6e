"""The decision: what is believed of what metadata says, and which keys sshd is told of."""
