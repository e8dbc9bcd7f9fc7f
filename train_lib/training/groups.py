"""Groups of parameters with their own learning rate, a later start, or no weight decay."""

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
"""The label of parameters in no group."""


class Group(NamedTuple):
    """Parameters with their own training settings.

    Howard and Ruder, "Universal language model fine-tuning for text classification", ACL 2018:
    layers have discriminative learning rates and are unfrozen one after another.

    Attributes:
        pattern: matches the parameters' paths; `*` is any text and `?` any character, as in
            `encoder.layers.0.*`.
        rate: multiplies the learning rate.
        frozen_epochs: epochs in which they do not change and the optimiser keeps no state for them;
            it then starts on them as it did on the others.
        decay: whether weight decay, if there is any, applies to them.
    """

    pattern: str
    rate: float = 1.0
    frozen_epochs: int = 0
    decay: bool = True


def parse(text: str) -> tuple[Group, ...]:
    """Parses groups: a JSON object from each pattern to the attributes that differ.

    Raises:
        ValueError: the text is no such object, or has an attribute or a value that is not allowed.
    """
    if not text:
        return ()
    try:
        groups = json.loads(text)
        found = tuple(Group(pattern, **changes) for pattern, changes in groups.items())
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(
            f"{text!r} is not a JSON object from patterns to what differs; write it as in "
            f"{_EXAMPLE}, with any of {', '.join(Group._fields[1:])}"
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
    """Labels each parameter with the first pattern that matches its path, or `REST`.

    Raises:
        ValueError: a group would have no parameters; the message lists the paths.
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
    """Makes an optimiser with separate settings for each group and for the rest.

    Args:
        groups: of the parameters.
        make: makes a group's optimiser, by `optax.inject_hyperparams`.
        clip: applied to the gradients of all groups together, except frozen ones.
        updates_an_epoch: the number of updates in an epoch.
    """
    groups = [*groups, Group(REST)]
    most = 2**31 - 1  # The counter's maximum: longer than any run.
    frozen = {group.pattern: min(group.frozen_epochs * updates_an_epoch, most) for group in groups}
    each = {group.pattern: _freezing(make(group), frozen[group.pattern]) for group in groups}

    def labels_of(params):
        return labels(groups[:-1], params)

    return optax.chain(_hiding(labels_of, frozen), clip, optax.partition(each, labels_of))


class _Hidden(NamedTuple):
    """The number of updates so far."""

    updates: jax.Array


def _hiding(
    labels_of: Callable[[Any], Any], frozen: Mapping[str, int]
) -> optax.GradientTransformation:
    """Zeroes the gradients of frozen groups, so that they do not count in the norm."""

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
    """The number of updates so far, and the state of the waiting optimiser."""

    updates: jax.Array
    inner: Any


def _freezing(
    optimizer: optax.GradientTransformationExtraArgs, updates: int
) -> optax.GradientTransformation:
    """Delays an optimiser by `updates` updates; its learning rate still follows its schedule."""
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
