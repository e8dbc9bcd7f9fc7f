"""How a cell runs over time: lengths, directions, engines and gradients.

*   `sequences`: what a cell makes of its sequences, and what their lengths say.
*   `step`, `loop`, `derivative`: the loop that runs any cell, anywhere.
*   `scan`, `parallel`, `fused` (with `fused_kernels` and `gatewise`), `cudnn`: other engines.
*   `engines`: the table of them, and which one runs a cell; each has an `entry` in it.
*   `oracle`: the unrolled loop that every engine must equal.
"""

from seqmodels.recurrence.loop import run, run_all, run_from
from seqmodels.recurrence.sequences import (
    Encoded,
    initial_carry,
    last_output,
    last_time,
    longest,
    real_inputs,
    valid_steps,
)

__all__ = [
    "Encoded", "initial_carry", "last_output", "last_time", "longest", "real_inputs", "run",
    "run_all", "run_from", "valid_steps",
]  # fmt: skip
