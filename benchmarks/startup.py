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
from train_lib.training import devices, fitting, program


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


def first_update(architecture: str) -> None:
    """Runs the project's own loop until it has made one update, and prints when that was."""
    make = program.compile_steps
    fitting.STEPS_A_CALL = 1

    def make_one(*arguments):
        compiled = make(*arguments)

        def train(*arguments):
            jax.block_until_ready(compiled.train(*arguments))
            print(time.time(), flush=True)
            sys.exit(0)

        return compiled._replace(train=train)

    program.compile_steps = make_one
    devices.configure()
    with tempfile.TemporaryDirectory() as folder:
        run.run(workload.config_of(architecture, masked=True), folder)


if __name__ == "__main__":
    with told_to_user():
        main(sys.argv[1:])
