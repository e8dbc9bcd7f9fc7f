"""Turns sources of examples into data sets that a model can read."""
