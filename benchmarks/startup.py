"""Seconds from the command to the end of the first update, in a fresh process.

python -m benchmarks.startup
python -m benchmarks.startup --architectures=stacked

Each architecture starts twice: with empty caches (IMDB is read and everything is compiled), and
with those that the first start left.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

import jax

from benchmarks import workload
from benchmarks.peers import chosen
from train_lib import run
from train_lib.errors import told_to_user
from train_lib.training import devices, fitting
from train_lib.training.hooks import Hook, Moment


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.startup",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    choices = workload.ARCHITECTURES
    parser.add_argument("--architectures", default=",".join(choices), help="separated by commas")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    names = chosen("architectures", options.architectures, choices)
    if options.child:
        first_update(names[0])
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            for caches in ("empty", "filled"):
                command = [sys.executable, "-m", "benchmarks.startup", "--child"]
                start = time.time()
                done = subprocess.run(
                    [*command, f"--architectures={name}"],
                    env=os.environ | {"XDG_CACHE_HOME": f"{folder}/cache"},
                    stdout=subprocess.PIPE,
                    check=True,
                )
                seconds = float(done.stdout.split()[-1]) - start
                print(f"{name}, caches {caches}: {seconds:.1f} s to the first update", flush=True)


class _FirstUpdate(Hook):
    def after_call(self, moment: Moment, examples: int) -> None:
        jax.block_until_ready(moment.training)
        print(time.time(), flush=True)
        sys.exit(0)


def first_update(architecture: str) -> None:
    """Runs the project's own loop until it has made one update, and prints when that was."""
    fitting.STEPS_A_CALL = 1
    devices.configure()
    with tempfile.TemporaryDirectory() as folder:
        config = workload.config_of(architecture, masked=True)
        run.run(config, folder, hooks=[_FirstUpdate()])


if __name__ == "__main__":
    with told_to_user():
        main(sys.argv[1:])
