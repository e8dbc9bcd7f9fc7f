"""A worker of a small search, for tests: `worker.py FOLDER`, with `killed` it ends by SIGKILL."""

import os
import signal
import sys

from configs import base
from train_lib.analysis.axes import Axis
from train_lib.trials import lease, study

AXES = ("train.seed=1,2,3,4",)


def small_config():
    """Three epochs of four steps, saved after every call."""
    config = base.get_config("small", "exact")
    config.model.embedding_size, config.model.hidden_sizes = 2, (2,)
    config.data.update(
        source="generated", train_examples=16, validation_examples=8, test_examples=4,
        max_features=50, max_length_tokens=12,
    )  # fmt: skip
    config.train.update(num_epochs=3, batch_size=4, checkpoint_every_steps=1)
    return config


class Killed(study.Trial):
    """Kills its worker after the second epoch."""

    def after_epoch(self, moment):
        super().after_epoch(moment)
        if len(moment.position.rows) == 2:
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    import jax

    from train_lib import sweep

    jax.config.update("jax_num_cpu_devices", 2)  # As in the tests' own process.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    lease.BEAT_SECONDS = study.BEAT_SECONDS = 0.5
    lease.STALE_SECONDS = 8.0
    if sys.argv[2:] == ["killed"]:
        study.Trial = Killed
    sweep.run(small_config(), [Axis.parse(text) for text in AXES], None, 0, sys.argv[1])
