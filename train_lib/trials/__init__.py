"""A search's trials, which any number of workers on one folder share."""
