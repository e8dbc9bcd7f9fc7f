"""What the site takes from outside this folder: figures, configs, and the API from docstrings."""

import pathlib
import re

from mkdocs.structure.files import File

ROOT = pathlib.Path(__file__).parent.parent
PAGES = ["CONTRIBUTING.md", "CHANGELOG.md"]
CONFIGS = sorted((ROOT / "configs").glob("[!_]*.py"))
REFERENCE = {
    "seqmodels": ["seqmodels"],
    "building": ["seqmodels.factory", "seqmodels.loading"],
    "cells": ["seqmodels.cells.base"],
    "recurrence": ["seqmodels.recurrence"],
    "training": ["train_lib.training"],
    "data": ["train_lib.data.dataset", "train_lib.data.examples"],
    "tasks": ["train_lib.tasks.base"],
    "runs": ["train_lib.restored", "train_lib.streaming"],
    "statistics": ["train_lib.analysis.statistics", "train_lib.analysis.scores"],
}
"""Pages of the reference, and the modules whose public names are on each."""


def on_config(config):
    """The last chapters: a page for each config and each part of the API; the project's own."""
    config["nav"].append({"Configs": [f"configs/{path.stem}.md" for path in CONFIGS]})
    config["nav"].append({"Reference": [f"reference/{name}.md" for name in REFERENCE]})
    config["nav"].append({"Project": PAGES})


def on_files(files, config):
    """Adds pages and pictures that are made elsewhere."""
    results = ROOT / "benchmarks/results"
    for path in sorted(results.rglob("*.md")) + sorted(results.rglob("*.png")):
        name = path.relative_to(ROOT).as_posix()
        files.append(File.generated(config, name, abs_src_path=str(path)))
    for path in CONFIGS:
        page = f"# configs/{path.name}\n\n```python\n{path.read_text('utf-8')}```\n"
        files.append(File.generated(config, f"configs/{path.stem}.md", content=page))
    for name in PAGES:
        page = re.sub(r"\]\((docs/)?", "](", (ROOT / name).read_text("utf-8"))
        files.append(File.generated(config, name, content=page))
    for name, modules in REFERENCE.items():
        page = f"# {name.capitalize()}\n\n" + "".join(f"::: {module}\n\n" for module in modules)
        files.append(File.generated(config, f"reference/{name}.md", content=page))
    return files


def on_page_markdown(markdown, **_):
    """Links that lead out of docs/ lead to what was added."""
    markdown = re.sub(r"\]\(\.\./(benchmarks/results/)", r"](\1", markdown)
    return re.sub(r"\]\(\.\./(configs/\w+)\.py\)", r"](\1.md)", markdown)
