"""How a cell runs over time: lengths, directions, engines and gradients.

*   `sequences`: a cell's outputs, and helpers for sequence lengths.
*   `step`, `loop`, `derivative`: the loop that runs any cell on any device, or, with `separate`,
    `projections` and `spans`, a large one on a CPU.
*   `scan`, `parallel`, `chunkwise`, `newton`, `pointwise`, `cudnn`, and `fused` (with
    `fused_kernels`, `fused_slices` and `gatewise`): other engines.
*   `engines`: the table of engines, each with an `entry`, and the choice of the one for a cell.
*   `oracle`: the unrolled loop whose results every engine must reproduce.
"""

from seqmodels.recurrence.loop import run, run_all, run_from
from seqmodels.recurrence.projections import Inputs, LookedUp
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
    "Encoded", "Inputs", "LookedUp", "initial_carry", "last_output", "last_time", "longest",
    "real_inputs", "run", "run_all", "run_from", "valid_steps",
]  # fmt: skip
