"""Which examples a run trains, validates and tests on, where a source leaves that open.

A split that the source has is used whole, or so many of it as are asked for. A test split that it
lacks is drawn from its training examples, a fifth of them if no number is asked for; a validation
split likewise, a tenth of what is left. The rest is trained on. What is drawn has the classes in
the proportions of what it is drawn from, or keeps groups together.
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
    """For each of `SPLITS`, the split of the source it comes from and the numbers of its examples.

    Args:
        pools: the splits that the source has.
        asked: how many examples of each of `SPLITS`; 0: see above.
        defaults: of the source, in place of 0, for some splits or none.
        seed: of the draw.
        name: of the source, for messages.

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
                "since groups stay together. Bring more groups, or a file for each split."
            )
    return drawn


def _sizes(count: int, wanted: Mapping[str, int], name: str) -> dict[str, int]:
    """How many of a pool's examples each part gets; 0 is a share, or what is left."""
    sizes = dict(wanted)
    main = "train" if "train" in sizes else next(iter(sizes))
    left = count - sum(sizes.values()) - (not sizes[main])  # One at least to train on.
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
            f"{name}: {parts} are asked for, and there are {count:,} examples to take them from. "
            f"Ask for fewer with {fields}; 0 takes what there is."
        )
    return sizes


def _draw(pool: Examples, sizes: Mapping[str, int], rng: np.random.Generator) -> dict[str, Indices]:
    """Disjoint sets of so many examples, each in the order of the pool.

    Every class that can be has an example to train on.
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
    """The examples of each class in order of the classes; one for all, where there are none."""
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
    """`size` examples spread over classes in proportion to their counts.

    Args:
        counts: what there is of each class.
        least, spare: so many of each class are taken and left over, if that is possible.
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
    """Disjoint sets of whole groups: as many as do not exceed the size, and at least one."""
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
