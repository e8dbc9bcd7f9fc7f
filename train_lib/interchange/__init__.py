"""Weights of other libraries: how they name, shape and store the parameters of our models.

`layout.py` says which parts of a model have a counterpart elsewhere, `keras.py` and `torch.py` how
its arrays are named there, and `formats.py` reads and writes the files.
"""
