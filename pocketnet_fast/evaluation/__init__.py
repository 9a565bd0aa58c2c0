"""Verification protocols and the files that they read."""
