"""The configuration: what is accepted, how files are merged, and what the documents say of it."""
