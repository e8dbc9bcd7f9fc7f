"""What is said while a run trains."""

import re

import jax.numpy as jnp
import numpy as np
import pytest

from train_lib.records.progress import Progress
from train_lib.tasks.classes import Classes
from train_lib.training.hooks import Moment
from train_lib.training.recipe import Recipe, RecipeState
from train_lib.training.state import Position


@pytest.mark.parametrize("patience", [0, 1, 3])
def test_it_is_said_when_a_seed_stops(patience, capsys):
    """When the recipe's own counts say so, and once."""
    seeds, task, recipe = range(5, 11), Classes(["a", "b"]), Recipe(patience=patience)
    rng = np.random.default_rng(1)
    progress, position = Progress(task, 20, seeds, patience), Position.first(len(seeds))
    state = RecipeState(epochs_since_best=jnp.zeros(len(seeds), jnp.int32) if patience else None)
    expected, stopped_K = [], np.zeros(len(seeds), bool)
    position.diverged = {7: 1}
    for epoch in range(1, 21):
        values_K = rng.random(len(seeds))
        counted_K = np.where(stopped_K | (np.array(seeds) == 7), np.nan, values_K)
        is_best_K = position.note_best(counted_K, higher_is_better=True)
        state = recipe.after_epoch(state, jnp.array(is_best_K))
        now_K = np.broadcast_to(recipe.is_stopped(state), len(seeds)) if patience else stopped_K
        expected += [
            (str(seed), str(epoch))
            for seed, was, now in zip(seeds, stopped_K, now_K, strict=True)
            if now and not was and seed != 7
        ]
        stopped_K = now_K
        metrics = {"loss": values_K.tolist(), "accuracy": values_K.tolist()}
        row = {
            "epoch": epoch, "step": epoch, "items": {"train": 10, "validation": 10},
            "seeds": {f"{s}_{n}": of for s in ("train", "validation") for n, of in metrics.items()},
        }  # fmt: skip
        position.end_epoch(row)
        progress.after_epoch(Moment(epoch, 20, None, position, lambda: None))
    said = capsys.readouterr().out
    ends = f"no better validation accuracy for {patience} epoch{'s' * (patience > 1)}\n"
    assert re.findall(rf"seed (\d+) stopped after epoch (\d+): {ends}", said) == expected
    assert len(expected) == 5 * bool(patience)
