"""Microseconds per step when a sequence is read as it arrives, one row on one device.

python -m benchmarks.streaming

For freshly drawn models of two configs: a step reads a token and brings the outputs to the host.
Prints the median and the tenth percentile of many.
"""

import time

import numpy as np

from configs import lstm, shakespeare
from train_lib import building
from train_lib.data.inputs import Tokens
from train_lib.errors import told_to_user
from train_lib.streaming import Stream
from train_lib.tasks.classes import Classes
from train_lib.tasks.next_token import NextToken
from train_lib.training import devices

_STEPS, _WARM_UP = 5_000, 100


def main() -> None:
    devices.configure()
    rng = np.random.default_rng(0)
    characters = 70
    jobs = {
        "configs/lstm.py, 16 units": (lstm.get_config(), 5_000, Classes(["no", "yes"])),
        "configs/shakespeare.py, 512 units": (
            shakespeare.get_config(), characters, NextToken([("", 1)] * characters)
        ),
    }  # fmt: skip
    for name, (config, vocabulary, task) in jobs.items():
        inputs = Tokens(vocabulary)
        config.data.max_features = vocabulary
        for seeds in (1, 10):
            models = building.build_models(config, inputs, task, range(seeds))
            stream = Stream(models, inputs, task, lambda *_: [])
            seconds = []
            for token in rng.integers(1, vocabulary, _WARM_UP + _STEPS):
                start = time.perf_counter()
                stream.step([token])
                seconds.append(time.perf_counter() - start)
            middle, low = np.percentile(seconds[_WARM_UP:], [50, 10]) * 1e6
            print(
                f"{name}, {seeds} seed{'s' * (seeds > 1)}: {middle:,.0f} us a step "
                f"(a tenth take {low:,.0f} or less)",
                flush=True,
            )


if __name__ == "__main__":
    with told_to_user():
        main()
