"""What doctor looks at: each check is a small object in a list."""
