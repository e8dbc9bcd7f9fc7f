"""`curves.png`: the course of training."""

from collections.abc import Sequence

import numpy as np

from train_lib.analysis import pictures
from train_lib.records.folder import RunFolder
from train_lib.records.metrics import line, plain
from train_lib.tasks.base import Task
from train_lib.training import processes


def draw(folder: RunFolder, title: str, rows: Sequence[dict], task: Task) -> None:
    """Draws the loss and the deciding metric, in training and validation, against epochs.

    Also draws each seed's learning rate, unless it is the same in all epochs and seeds.

    Args:
        folder: the run's folder.
        title: the title of the figure.
        rows: one for each epoch, as in `fit`.
        task: the task whose metrics they are.
    """
    if not processes.is_first():
        return
    lines = [line(row, task) for row in rows]
    names = list(dict.fromkeys(("loss", task.metric)))
    # Older versions did not record it.
    rated = [row for row in rows if "learning_rate" in row.get("seeds", ())]
    rates_ExK = np.array([row["seeds"]["learning_rate"] for row in rated], float)
    varies = len(set(rates_ExK[np.isfinite(rates_ExK)])) > 1
    figure = pictures.new_figure(5 * (len(names) + varies), 4)
    all_axes = figure.subplots(1, len(names) + varies, squeeze=False)[0]
    if varies:
        all_axes[-1].plot([row["epoch"] for row in rated], rates_ExK, "o-")
        all_axes[-1].set_ylabel("learning rate of each seed")
    for axes, name in zip(all_axes, names, strict=False):
        for split, style in (("train", "o--"), ("validation", "o-")):
            there = [one for one in lines if f"{split}_{name}" in one]
            epochs = [one["epoch"] for one in there]
            (drawn,) = axes.plot(
                epochs, [one[f"{split}_{name}"] for one in there], style, label=split
            )
            intervals = [one["ci95"] and one["ci95"][f"{split}_{name}"] for one in there]
            pictures.draw_band(axes, epochs, intervals, drawn.get_color())
        axes.set_ylabel(plain(name))
        axes.legend()
    for axes in all_axes:
        axes.set_xlabel("epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
    figure.suptitle(title)
    folder.write("curves.png", pictures.png(figure))
