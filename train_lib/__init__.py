"""Data, training and reporting. Reads configs, builds models; `seqmodels` knows nothing of it."""

import seqmodels  # noqa: F401  Before JAX: it says why where that cannot be imported.

try:
    import tqdm  # noqa: F401  It reads variables of its own, and fails where it cannot.
except ValueError as error:
    raise SystemExit(f"error: an environment variable TQDM_... cannot be used: {error}") from None
