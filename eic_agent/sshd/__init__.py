"""What sshd does now, and making it ask us."""
