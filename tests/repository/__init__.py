"""The repository itself: imports, units, documents, hooks."""
