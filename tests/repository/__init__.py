"""Unit tests: one module of the package each, no network beyond loopback, no root."""
