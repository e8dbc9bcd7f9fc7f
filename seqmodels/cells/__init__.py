"""One file a cell: the mathematics of one step, nothing else. `base.py` is the contract."""
