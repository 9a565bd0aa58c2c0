"""Models as files that other programs load."""
