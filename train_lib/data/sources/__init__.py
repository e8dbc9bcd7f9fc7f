"""Sources that are found by their file name."""
