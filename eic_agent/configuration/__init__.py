"""TOML files to one frozen `Config`."""
