"""Data, training and reporting. Reads configs, builds models; `seqmodels` knows nothing of it."""

import seqmodels  # noqa: F401  Before JAX: it says why where that cannot be imported.
