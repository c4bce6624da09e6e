"""The wiring in sshd's configuration, with a real sshd where there is one."""
