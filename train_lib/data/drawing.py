"""Draws the training, validation and test splits that a source does not provide.

A split that the source has is used whole, or as many of its examples as are requested. A missing
test split is drawn from the training examples, a fifth of them unless a number is requested; a
missing validation split likewise, a tenth of what is left. The rest is trained on. A drawn split
keeps the class proportions of the examples it is drawn from, or keeps groups together.
"""

import collections
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from train_lib.data.examples import SPLITS, Examples
from train_lib.errors import UserError

TEST_SHARE, VALIDATION_SHARE = 0.2, 0.1
_MAX_CLASSES = 20_000

Indices = np.ndarray


def draw(
    pools: Mapping[str, Examples],
    asked: Mapping[str, int],
    defaults: Mapping[str, int],
    seed: int,
    name: str,
) -> dict[str, tuple[str, Indices]]:
    """For each of `SPLITS`, the source's split it comes from and the numbers of its examples.

    Args:
        pools: the splits that the source has.
        asked: how many examples of each of `SPLITS` are requested; 0: see above.
        defaults: the source's replacements for 0, for some splits or none.
        seed: the random seed of the draw.
        name: the name of the source, for messages.

    Raises:
        UserError: there are too few examples.
    """
    wanted = {split: asked[split] or defaults.get(split, 0) for split in SPLITS}
    rng = np.random.default_rng(seed)
    drawn: dict[str, tuple[str, Indices]] = {}
    for pool in SPLITS:
        if pool not in pools:
            continue
        parts = [pool] if pool != "train" else [s for s in SPLITS if s == pool or s not in pools]
        sizes = _sizes(len(pools[pool].inputs), {part: wanted[part] for part in parts}, name)
        draw_pool = _draw if pools[pool].groups is None or len(parts) == 1 else _draw_groups
        drawn |= {part: (pool, found) for part, found in draw_pool(pools[pool], sizes, rng).items()}
    for part, (pool, indices) in drawn.items():
        if not len(indices):
            raise UserError(
                f"{name}: the {pool} examples have too few groups for a {part} split of its own, "
                "since groups stay together. Provide more groups, or a file for each split."
            )
    return drawn


def _sizes(count: int, wanted: Mapping[str, int], name: str) -> dict[str, int]:
    """The number of a pool's examples that each part gets; 0 stands for a share or the rest."""
    sizes = dict(wanted)
    main = "train" if "train" in sizes else next(iter(sizes))
    left = count - sum(sizes.values()) - (not sizes[main])  # Leaves at least one to train on.
    if not sizes.get("test", 1) and main != "test":
        most = left if sizes.get("validation", 1) else 2 * left // 3
        sizes["test"] = max(1, min(round(TEST_SHARE * count), most))
        left -= sizes["test"]
    if not sizes.get("validation", 1) and main != "validation":
        share = VALIDATION_SHARE * (count - sizes.get("test", 0))
        sizes["validation"] = max(1, min(round(share), left))
        left -= sizes["validation"]
    sizes[main] = sizes[main] or max(1, left + 1)
    if sum(sizes.values()) > count:
        parts = " + ".join(f"{size:,} for {part}" for part, size in sizes.items())
        fields = ", ".join(f"config.data.{part}_examples" for part in sizes)
        raise UserError(
            f"{name}: {parts} are asked for, but there are {count:,} examples to take them from. "
            f"Ask for fewer with {fields}; 0 takes what there is."
        )
    return sizes


def _draw(pool: Examples, sizes: Mapping[str, int], rng: np.random.Generator) -> dict[str, Indices]:
    """Draws disjoint sets of these sizes, each in the order of the pool.

    Every class has an example to train on if possible.
    """
    classes = _classes(pool.targets)
    shuffled = [rng.permutation(members) for members in classes]
    starts = np.zeros(len(classes), int)
    sets = {}
    # A test set drawn first stays the same while training and validation sets change.
    for part in sorted(sizes, key=["test", "train", "validation"].index):
        left = np.array([len(members) for members in classes]) - starts
        is_train, is_only = part == "train", len(sizes) == 1
        shares = _shares(sizes[part], left, int(is_train), 0 if is_train or is_only else 1)
        pieces = zip(shuffled, starts, starts + shares, strict=True)
        sets[part] = np.sort(np.concatenate([one[start:stop] for one, start, stop in pieces]))
        starts += shares
    return sets


def _classes(targets: Sequence[Any]) -> list[Indices]:
    """The examples of each class in order of the classes; without classes, all in one group."""
    everything = [np.arange(len(targets))]
    if not all(target is None or isinstance(target, str | int) for target in targets):
        return everything
    members: dict[str, list[int]] = collections.defaultdict(list)
    for number, target in enumerate(targets):
        members[json.dumps(target)].append(number)
    if len(members) > min(_MAX_CLASSES, len(targets) // 2):
        return everything
    return [np.array(members[key]) for key in sorted(members)]


def _shares(size: int, counts: np.ndarray, least: int, spare: int) -> np.ndarray:
    """Spreads `size` examples over classes in proportion to their counts.

    Args:
        size: the number of examples.
        counts: the number available of each class.
        least: at least this many of each class are taken, if possible.
        spare: at least this many of each class are left over, if possible.
    """
    lows, highs = np.minimum(counts, least), np.maximum(counts - spare, 0)
    lows = lows if lows.sum() <= size else 0 * counts
    highs = highs if highs.sum() >= size else counts
    exact = size * counts / max(1, counts.sum())
    shares = np.clip(np.floor(exact).astype(int), lows, highs)
    while shares.sum() < size:
        shares[np.argmax(np.where(shares < highs, exact - shares, -np.inf))] += 1
    while shares.sum() > size:
        shares[np.argmin(np.where(shares > lows, exact - shares, np.inf))] -= 1
    return shares


def _draw_groups(
    pool: Examples, sizes: Mapping[str, int], rng: np.random.Generator
) -> dict[str, Indices]:
    """Draws disjoint sets of whole groups: at most the size if possible, and at least one group."""
    members: dict[str, list[int]] = collections.defaultdict(list)
    for number, group in enumerate(pool.groups or ()):
        members[json.dumps(group)].append(number)
    names = list(members)
    waiting = [members[names[number]] for number in rng.permutation(len(names))]
    takes_all = sum(sizes.values()) == len(pool.inputs)
    sets = {}
    for part in sorted(sizes, key=["test", "validation", "train"].index):
        taken: list[int] = []
        passed = []
        for group in waiting:
            fits = len(taken) + len(group) <= sizes[part]
            if fits or (part == "train" and takes_all):
                taken += group
            else:
                passed.append(group)
        if passed and not taken:
            taken = min(passed, key=len)
            passed.remove(taken)
        sets[part] = np.sort(np.array(taken, int))
        waiting = passed
    return sets
