"""From sources of examples to data sets that a model can read."""
