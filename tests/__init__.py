"""Tests: a folder for each room of the package, and CONTRIBUTING.md's table of all."""
