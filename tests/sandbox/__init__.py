"""The sandbox: the whole service on one machine."""
