"""Memory that training was said to take, and what it took, on a CPU under Linux.

python -m benchmarks.memory --text=input.txt

Each run trains in a fresh process, without checkpoints: an epoch of IMDB, or four calls on a text.
Taken is by how much resident memory exceeded, at most, what it was once training was compiled.
"""

import argparse
import pathlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence

from configs import lstm, shakespeare, stacked
from train_lib import run
from train_lib.errors import told_to_user
from train_lib.training import devices, memory
from train_lib.training.hooks import Hook, Moment

_CALLS = 4


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.memory",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--text", help="a language model's text", required=True)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    configs = {
        "lstm.py": lstm.get_config(),
        "lstm.py, ten seeds": lstm.get_config(),
        "stacked.py": stacked.get_config(),
        "shakespeare.py": shakespeare.get_config(),
    }
    if options.child:
        config = configs[options.child]
        config.train.num_epochs = 1
        config.train.checkpoint_every_seconds = 0.0
        if options.child.endswith("seeds"):
            config.train.seeds = 10
        if options.child.startswith("shakespeare"):
            config.data.source = options.text
        measure(config)
    print("| run | forecast, MiB | taken, MiB |\n|---|---|---|", flush=True)
    for name in configs:
        command = [sys.executable, "-m", "benchmarks.memory", f"--text={options.text}"]
        done = subprocess.run([*command, f"--child={name}"], stdout=subprocess.PIPE, check=True)
        forecast, taken = (int(word) / 2**20 for word in done.stdout.split()[-2:])
        print(f"| `{name}` | {forecast:,.0f} | {taken:,.0f} |", flush=True)


class _Peak(Hook):
    """Ends the process after some calls on a text, or an epoch, and prints what they took."""

    def __init__(self, is_text: bool):
        self._is_text, self._calls = is_text, 0
        self._forecast = self._before = 0
        self._needed, memory.needed = memory.needed, self._noting

    def _noting(self, *arguments) -> int | None:
        found = self._needed(*arguments)
        assert found is not None, "the compiler does not say"
        self._forecast, self._before = found, _status("VmRSS")
        pathlib.Path("/proc/self/clear_refs").write_text("5")  # The highest is now the present.
        return found

    def after_call(self, moment: Moment, examples: int) -> None:
        moment.settle()
        self._calls += 1
        if self._is_text and self._calls == _CALLS:
            self._end()

    def after_epoch(self, moment: Moment) -> None:
        self._end()

    def _end(self) -> None:
        print(self._forecast, _status("VmHWM") - self._before, flush=True)
        sys.exit(0)


def measure(config) -> None:
    """Trains in this process, prints the bytes forecast and taken, and ends the process."""
    devices.configure()
    with tempfile.TemporaryDirectory() as folder:
        run.run(config, folder, hooks=[_Peak(config.train.stream_steps > 0)])


def _status(name: str) -> int:
    text = pathlib.Path("/proc/self/status").read_text()
    return 1024 * int(re.findall(rf"{name}:\s+(\d+)", text)[0])


if __name__ == "__main__":
    with told_to_user():
        main(sys.argv[1:])
