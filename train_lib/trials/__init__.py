"""A search's trials, which any number of workers share through one folder."""
