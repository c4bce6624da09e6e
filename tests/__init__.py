"""Tests, and the metadata simulator and sandbox that they run against."""
