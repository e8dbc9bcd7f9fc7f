"""Compares finished runs: which is better, by how much, and how sure that is.

python -m train_lib.compare runs/lstm-... runs/bilstm-... [--out=FOLDER]

Reads `config.json`, `result.json`, `metrics.jsonl` and `predictions.csv` of each run, and compares
every pair. Prints tables, and writes them to `compare.md`, all figures to `compare.json`, pictures
to `compare.png`, and all of it as one page for a browser to `compare.html`.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence

from train_lib import files, screen
from train_lib.analysis import comparison_page, comparison_tables, pictures
from train_lib.analysis.comparison import compare as compare_runs
from train_lib.errors import UserError, told_to_user
from train_lib.records import finished
from train_lib.records.folder import RunFolder


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m train_lib.compare",
        description="Compares finished runs: which is better, by how much, and how sure that is.",
    )
    parser.add_argument("run", nargs="+", help="the folder of a finished run; two or more")
    parser.add_argument("--out", help="a folder, new or empty; by default a new one under runs/")
    arguments = parser.parse_args(argv)
    if len(arguments.run) < 2:
        raise UserError("there is nothing to compare with: name the folders of two runs or more.")
    comparison = compare_runs(finished.load(arguments.run))
    text = comparison_tables.markdown(comparison)
    folder = RunFolder(files.new_folder("--out", arguments.out, "compare"))
    command = shlex.join(["python", "-m", "train_lib.compare", *argv])
    folder.write("compare.md", f"# Comparison of runs\n\nMade by `{command}`.\n\n{text}")
    folder.write("compare.html", comparison_page.page(comparison, command))
    folder.write("compare.png", pictures.png(comparison_tables.draw(comparison)))
    folder.write_json("compare.json", comparison)
    screen.show(comparison_tables.tables(comparison), comparison["notes"], text)
    print(f"folder: {folder.path}", flush=True)


if __name__ == "__main__":
    with told_to_user():
        main(sys.argv[1:])
