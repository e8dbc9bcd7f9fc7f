"""Data, training and reporting. Reads configs, builds models; `seqmodels` does not depend on it."""

import pathlib
import re
import signal
import sys

_IS_PROGRAM = re.fullmatch(r"-m|main\.py|seqmodels-\w+", pathlib.Path(*sys.argv[:1]).name)
if _IS_PROGRAM and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    # Libraries that are being imported would lose an interrupt or end in a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import seqmodels  # noqa: E402, F401  Before JAX: it explains why JAX cannot be imported.

try:
    import tqdm  # noqa: F401  It reads its own environment variables, and may fail.
except ValueError as error:
    raise SystemExit(f"error: an environment variable TQDM_... cannot be used: {error}") from None
