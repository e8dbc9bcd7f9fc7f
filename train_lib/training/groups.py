"""Groups of parameters that learn at a rate of their own, later than others, or without decay."""

import fnmatch
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from train_lib.training.state import path_of

_EXAMPLE = '\'{"inputs.*": {"rate": 0.1, "frozen_epochs": 2, "decay": false}}\''

REST = ""
"""The label of parameters that are in no group."""


class Group(NamedTuple):
    """Parameters that learn in a way of their own.

    Howard and Ruder, "Universal language model fine-tuning for text classification", ACL 2018:
    layers have discriminative rates, and are unfrozen one after the other.

    Attributes:
        pattern: of the parameters' paths, in which `*` is any text and `?` any character, as in
            `encoder.layers.0.*`.
        rate: by which the learning rate is multiplied.
        frozen_epochs: in which they do not change, and the optimiser remembers nothing of them; it
            then begins with them as it began with the others.
        decay: whether their weights decay, where others do.
    """

    pattern: str
    rate: float = 1.0
    frozen_epochs: int = 0
    decay: bool = True


def parse(text: str) -> tuple[Group, ...]:
    """Groups as they are written: a JSON object from each pattern to what differs.

    Raises:
        ValueError: it is none, or has an attribute or a value that no group can have.
    """
    if not text:
        return ()
    try:
        groups = json.loads(text)
        found = tuple(Group(pattern, **changes) for pattern, changes in groups.items())
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(
            f"{text!r} is no JSON object from patterns to what differs; write it as in {_EXAMPLE}, "
            f"with any of {', '.join(Group._fields[1:])}"
        ) from error
    for group in found:
        rate, epochs, decay = group[1:]
        if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 <= rate < 1e30:
            raise ValueError(f"rate = {rate!r} of {group.pattern!r} must be a number of at least 0")
        if isinstance(epochs, bool) or not isinstance(epochs, int) or epochs < 0:
            raise ValueError(
                f"frozen_epochs = {epochs!r} of {group.pattern!r} must be a whole number of at "
                "least 0"
            )
        if not isinstance(decay, bool):
            raise ValueError(f"decay = {decay!r} of {group.pattern!r} must be true or false")
    return found


def labels(groups: Sequence[Group], params: Any) -> Any:
    """Of each parameter the pattern of its group, the first that fits its path, or `REST`.

    Raises:
        ValueError: a group would have no parameter; the message lists the paths.
    """
    leaves = jax.tree_util.tree_leaves_with_path(params)
    paths = [path_of(keys) for keys, _ in leaves]
    chosen = [
        next((one.pattern for one in groups if fnmatch.fnmatchcase(path, one.pattern)), REST)
        for path in paths
    ]
    for group in groups:
        if group.pattern not in chosen:
            fits = any(fnmatch.fnmatchcase(path, group.pattern) for path in paths)
            what = "only parameters of groups before it" if fits else "no parameter"
            raise ValueError(
                f"the pattern {group.pattern!r} fits {what}; the parameters are {', '.join(paths)}"
            )
    return jax.tree.unflatten(jax.tree.structure(params), chosen)


def split(
    groups: Sequence[Group],
    make: Callable[[Group], optax.GradientTransformationExtraArgs],
    clip: optax.GradientTransformation,
    updates_an_epoch: int,
) -> optax.GradientTransformationExtraArgs:
    """An optimiser for each group, and one for the rest.

    Args:
        groups: of the parameters.
        make: the optimiser of a group, as `optax.inject_hyperparams` makes it.
        clip: is given the gradients of all groups together, without those that are frozen.
        updates_an_epoch: how many updates an epoch has.
    """
    groups = [*groups, Group(REST)]
    most = 2**31 - 1  # Of the counter: longer than any run.
    frozen = {group.pattern: min(group.frozen_epochs * updates_an_epoch, most) for group in groups}
    each = {group.pattern: _freezing(make(group), frozen[group.pattern]) for group in groups}

    def labels_of(params):
        return labels(groups[:-1], params)

    return optax.chain(_hiding(labels_of, frozen), clip, optax.partition(each, labels_of))


class _Hidden(NamedTuple):
    """How many updates there have been."""

    updates: jax.Array


def _hiding(
    labels_of: Callable[[Any], Any], frozen: Mapping[str, int]
) -> optax.GradientTransformation:
    """Makes the gradients of frozen groups zero, so that they are no part of the norm."""

    def update(gradient, state, params=None):
        gradient = jax.tree.map(
            lambda one, label: (
                jnp.where(state.updates < frozen[label], 0, one) if frozen[label] else one
            ),
            gradient,
            labels_of(gradient),
        )
        return gradient, _Hidden(state.updates + 1)

    return optax.GradientTransformation(lambda _: _Hidden(jnp.zeros((), jnp.int32)), update)


class _Freezing(NamedTuple):
    """How many updates there have been, and the state of the optimiser that waits."""

    updates: jax.Array
    inner: Any


def _freezing(
    optimizer: optax.GradientTransformationExtraArgs, updates: int
) -> optax.GradientTransformation:
    """An optimiser that begins after so many updates; its learning rate follows its schedule."""
    if not updates:
        return optimizer

    def init(params):
        return _Freezing(jnp.zeros((), jnp.int32), optimizer.init(params))

    def update(gradient, state, params=None):
        change, inner = optimizer.update(gradient, state.inner, params)
        is_frozen = state.updates < updates
        held = jax.tree.map(
            lambda old, new: jnp.where(is_frozen, old, new),
            (jax.tree.map(jnp.zeros_like, change), state.inner),
            (change, inner),
        )
        schedules = held[1].hyperparams_states
        if "learning_rate" in schedules:
            schedules = schedules | {"learning_rate": inner.hyperparams_states["learning_rate"]}
        return held[0], _Freezing(state.updates + 1, held[1]._replace(hyperparams_states=schedules))

    return optax.GradientTransformation(init, update)
