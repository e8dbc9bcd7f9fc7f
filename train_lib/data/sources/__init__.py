"""Sources that are found by the name of their file."""
