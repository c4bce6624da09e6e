"""What the packages hold."""
