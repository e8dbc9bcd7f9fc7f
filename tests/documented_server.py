"""Runs commands of this project one after the other, each in a fork that need not import it again.

Reads a JSON line of each: the words after `python`, and the files of its input and its output.
Answers with the exit code. What is imported here starts no thread and no device.
"""

import io
import json
import os
import runpy
import sys

import matplotlib.figure  # noqa: F401
import sklearn.linear_model  # noqa: F401

import train_lib.restored
import train_lib.run  # noqa: F401


def run(words: list[str]) -> int:
    """Does what `python` would with these words; returns its exit code."""
    try:
        if words[0] == "-m":
            sys.argv = words[1:]
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = words
            runpy.run_path(words[0], run_name="__main__")
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    return 0


def main() -> None:
    for line in sys.stdin:
        words, given, said = json.loads(line)
        child = os.fork()
        if child == 0:
            for number, (path, mode) in enumerate([(given, os.O_RDONLY), (said, os.O_WRONLY)]):
                os.dup2(os.open(path, mode), number)
            os.dup2(1, 2)
            sys.stdin = io.TextIOWrapper(io.FileIO(0), encoding="utf-8")
            code = 70
            try:
                code = run(words)
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
