"""A language model over one long text: this project and PyTorch, with the same recipe.

python -m benchmarks.language_model --source=input.txt
python -m benchmarks.language_model --source=input.txt --seeds=3

Both follow `configs/shakespeare.py`: sizes, initial parameters, batches, learning rates,
decay, clipping and averages. Without dropout, their losses must agree over the first updates. Then
they take turns: one makes some updates while the others wait, and the median times of one
update are compared, with products in float32 and in bfloat16. With `--seeds` PyTorch also trains
that many models to the end; each is tested as a run of this project is, once, on the last part of
the text, in one piece. PyTorch's dropout draws different numbers.
"""

import argparse
import json
import multiprocessing
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from benchmarks import workload
from benchmarks.peers import chosen
from configs import shakespeare
from seqmodels import loading
from train_lib import building
from train_lib.data.dataset import Split
from train_lib.errors import told_to_user
from train_lib.records import weights
from train_lib.training import batching, devices, fitting

_AGREEING_UPDATES = 20
_DTYPES = ("float32", "bfloat16")
_TOLERANCE = 1e-4
"""The relative tolerance of a loss over these updates."""


class _Ours:
    """This project's own program."""

    def __init__(self, config: ConfigDict):
        data, task = building.load_data(config)
        models = building.build_models(config, data.inputs, task, [config.train.seed])
        self._program = building.build_program(config, data, task, models)
        self._state = fitting.start(self._program, [config.train.seed]).training.state
        split = batching.DeviceSplit.of(data.train, task)
        self._split = devices.replicate(split, self._program.mesh)
        self._plans = batching.plan_stream(len(data.train), config.train.batch_size)
        self._widths = batching.row_widths(data.train, [], self._program.treatment)

    def updates(self, first: int, count: int) -> tuple[list[float], float]:
        """The losses of updates of the first epoch, and the seconds that they took."""
        layout, mesh = self._program.layout, self._program.mesh
        places = layout.place_all(self._plans[first : first + count], None, count)
        places = devices.spread(places[None], mesh)
        begin = time.perf_counter()
        self._state, sums = self._program.compiled.train(
            self._state, self._split, places, count, self._widths
        )
        sums = devices.fetch(sums)
        return (sums["loss"] / sums["weight"])[0].tolist(), time.perf_counter() - begin


class _PyTorch:
    """`nn.LSTM`, with the same recipe."""

    def __init__(self, config: ConfigDict):
        from benchmarks.torch_language_model import Training  # Only in its own process.

        data, task = building.load_data(config)
        (model,) = building.build_models(config, data.inputs, task, [config.train.seed])
        named = dict(weights.named(nnx.state(model, nnx.Param)))
        schedule = building.build_recipe(config, len(data.train)).schedule
        assert schedule is not None
        fields = config.to_dict()
        fields["train"] |= {"b2": loading.parse_options(config.train.optimizer_options, "")["b2"]}
        self._training = Training(
            {name: np.array(array) for name, array in named.items()},
            fields,
            np.array([float(schedule(n)) for n in range(schedule.num_updates)]),
            config.model.matrix_dtype == "bfloat16",
        )
        self._epochs = config.train.num_epochs
        self._test = _blocks(data.test, np.arange(len(data.test)))
        plans = batching.plan_stream(len(data.train), config.train.batch_size)
        self._batches = [_blocks(data.train, plan) for plan in plans]

    def updates(self, first: int, count: int) -> tuple[list[float], float]:
        """As in `_Ours`."""
        begin = time.perf_counter()
        losses = [self._training.update(*one) for one in self._batches[first : first + count]]
        return losses, time.perf_counter() - begin

    def train(self) -> tuple[float, float]:
        """The test loss after all epochs, and the seconds that they took."""
        begin = time.perf_counter()
        for _ in range(self._epochs):
            self._training.begin_epoch()
            self.updates(0, len(self._batches))
        seconds = time.perf_counter() - begin
        return self._training.test(*self._test), seconds


def _blocks(split: Split, plan_B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and targets `[B, T]` of blocks; -1 if there is no target."""
    width = int(split.lengths.max())
    tokens_BxT = np.zeros((len(plan_B), width), np.int32)
    targets_BxT = np.full((len(plan_B), width), -1, np.int32)
    for row, number in enumerate(plan_B):
        if number != batching.NO_EXAMPLE:
            steps = slice(*split.offsets[number : number + 2])
            tokens_BxT[row, : split.lengths[number]] = split.values[steps]
            targets_BxT[row, : split.lengths[number]] = split.targets[steps]
    return tokens_BxT, targets_BxT


class _Process:
    """One of them in its own process, which waits until it is called."""

    def __init__(self, make: type, config: ConfigDict):
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        given = make, config.to_dict(), theirs
        self._process = context.Process(target=_serve, args=given, daemon=True)
        self._process.start()

    def call(self, method: str, *arguments: Any) -> Any:
        self._pipe.send((method, arguments))
        return self._pipe.recv()

    def close(self) -> None:
        self._process.terminate()
        self._process.join()


def _serve(make: type, fields: dict, pipe: Any) -> None:
    devices.configure()
    served = make(ConfigDict(fields))
    while True:
        method, given = pipe.recv()
        pipe.send(getattr(served, method)(*given))


def _check_agreement(config: ConfigDict) -> float:
    """The largest relative difference of losses over the first updates, without dropout."""
    config = _with(config, "float32")
    config.model.dropout_rates = (0.0,) * len(config.model.hidden_sizes)
    config.model.output_dropout = config.model.weight_drop = config.model.word_dropout = 0.0
    both = [_Process(_Ours, config), _Process(_PyTorch, config)]
    losses = [one.call("updates", 0, _AGREEING_UPDATES)[0] for one in both]
    for one in both:
        one.close()
    return float(np.max(np.abs(np.divide(*losses) - 1)))


def _times(config: ConfigDict, dtypes: Sequence[str], turns: int, updates: int) -> dict[str, Any]:
    """Milliseconds per update, and the ratio of ours to PyTorch's: medians over turns."""
    processes = {
        (peer, dtype): _Process(make, _with(config, dtype))
        for dtype in dtypes
        for peer, make in (("ours", _Ours), ("pytorch", _PyTorch))
    }
    for process in processes.values():
        process.call("updates", 0, updates)  # Compiles, and warms memory and caches up.
    taken = [
        {
            which: process.call("updates", updates * (1 + turn), updates)[1] * 1e3 / updates
            for which, process in processes.items()
        }
        for turn in range(turns)
    ]
    for process in processes.values():
        process.close()
    found = {}
    for dtype in dtypes:
        of_dtype = np.array([(turn["ours", dtype], turn["pytorch", dtype]) for turn in taken])
        ours, theirs = np.median(of_dtype, axis=0).tolist()
        ratio = float(np.median(of_dtype[:, 0] / of_dtype[:, 1]))
        found[dtype] = {"ours": ours, "pytorch": theirs, "ratio": ratio}
    return found


def _with(config: ConfigDict, matrix_dtype: str) -> ConfigDict:
    config = ConfigDict(config.to_dict())
    config.model.matrix_dtype = matrix_dtype
    return config


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.language_model",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--source", required=True, help="the text")
    parser.add_argument("--turns", type=int, default=8)
    parser.add_argument("--updates", type=int, default=16, help="updates in a turn")
    parser.add_argument("--timed", default=",".join(_DTYPES), help="dtypes of products to time")
    parser.add_argument("--matrix_dtype", choices=_DTYPES, help="of the trained models")
    parser.add_argument("--seeds", type=int, default=0, help="models for PyTorch to train")
    parser.add_argument("--epochs", type=int, help="of these models; as in the config by default")
    options = parser.parse_args(argv)
    dtypes = chosen("timed", options.timed, _DTYPES)
    config = shakespeare.get_config()
    config.data.source = options.source
    devices.configure()
    print(json.dumps(workload.machine()), flush=True)
    if options.turns:
        difference = _check_agreement(config)
        print(f"losses of the first {_AGREEING_UPDATES} updates differ by {difference:.1e} at most")
        if difference > _TOLERANCE:
            raise SystemExit("which is too much; nothing is timed")
        times = _times(config, dtypes, options.turns, options.updates)
        print(json.dumps(times), flush=True)
    config = _with(config, options.matrix_dtype or config.model.matrix_dtype)
    config.train.num_epochs = options.epochs or config.train.num_epochs
    for seed in range(options.seeds):
        config.train.seed = seed
        process = _Process(_PyTorch, config)
        loss, seconds = process.call("train")
        process.close()
        print(json.dumps({"seed": seed, "test_loss": loss, "seconds": seconds}), flush=True)


if __name__ == "__main__":
    with told_to_user():
        main(sys.argv[1:])
