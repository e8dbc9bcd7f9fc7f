"""Data, training and reporting. Reads configs, builds models; `seqmodels` does not depend on it."""

import seqmodels  # noqa: F401  Before JAX: it explains why JAX cannot be imported.

try:
    import tqdm  # noqa: F401  It reads its own environment variables, and may fail.
except ValueError as error:
    raise SystemExit(f"error: an environment variable TQDM_... cannot be used: {error}") from None
