"""Training: a function of models, a task, an optimiser and data, and the hooks that watch it.

from train_lib.training import Program, fit

program = Program(models, task, optax.adam(1e-3), batch_size=32)
fitted = fit(program, train, validation, seeds=[0, 1, 2], num_epochs=5)
"""

from train_lib.training.batching import EXACT, Treatment
from train_lib.training.fitting import Fitted, Start, fit, start
from train_lib.training.hooks import Hook, Moment
from train_lib.training.program import Evaluation, Program
from train_lib.training.recipe import Recipe

__all__ = [
    "EXACT", "Evaluation", "Fitted", "Hook", "Moment", "Program", "Recipe", "Start", "Treatment",
    "fit", "start",
]  # fmt: skip
