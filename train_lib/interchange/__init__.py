"""Weights of other libraries: how they name, shape and store what our models have.

`layout.py` says what of a model has a counterpart elsewhere, `keras.py` and `torch.py` what its
arrays are called there, and `formats.py` reads and writes the files.
"""
