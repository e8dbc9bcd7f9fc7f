"""Recurrent sequence models: arrays in, arrays out.

Array names carry their shape: B batch, T time, D input features, H hidden units, G gates x hidden,
V vocabulary. A model takes `tokens_BxT` and `lengths_B`. Inside it time comes first and the batch
last, as in `x_TxDxB`: a time step is then one block of memory in which each feature of all
sequences lies side by side, so pointwise work vectorises whatever H is (on a CPU five times faster
than features last, at H = 16).
"""

try:
    import flax  # noqa: F401  And JAX: either fails where it cannot read a variable of its own.
except ValueError as error:
    raise SystemExit(f"error: an environment variable cannot be used: {error}") from None
