"""Optimisers by name: Adam as Keras computes it, and optax's."""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
import optax.contrib

from train_lib.training.groups import Group, split

Rated = Callable[..., optax.GradientTransformationExtraArgs]
"""Makes an optimiser from a `learning_rate` and options."""

_NEEDS_LOSS = "it needs the loss of every step, but steps here provide only gradients"
_REFUSED = {
    "lbfgs": "its line search needs the loss at other parameters",
    "polyak_sgd": _NEEDS_LOSS,
    "momo": _NEEDS_LOSS,
    "momo_adam": _NEEDS_LOSS,
    "sophia": "it needs second derivatives of the loss",
    "sam": "it needs gradients at other parameters",
    "dpsgd": "it needs the gradient of every example",
    "noisy_sgd": "it draws noise from a key of its own, which would be the same for all seeds",
    "rprop": "its steps follow the signs of gradients alone, whatever the learning rate",
    "optimistic_adam": "it was replaced by optimistic_adam_v2",
    "schedule_free_adamw": "it trains other parameters than it evaluates; use ema_decay",
    "schedule_free_sgd": "it trains other parameters than it evaluates; use ema_decay",
}  # fmt: skip
"""Optax optimisers that cannot be used here, and why."""

_DECAYS_INSIDE = {"lamb": "mask", "lars": "weight_decay_mask"}
"""Those whose update depends on the decay, and the name of their mask argument: the trust ratio of
You et al. uses gradient and decay together."""


def _is_of_decay(option: str) -> bool:
    return option == "mask" or "weight_decay" in option


def adam(
    learning_rate: float | optax.Schedule,
    epsilon: float = 1e-7,
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    weight_decay: float = 0.0,
) -> optax.GradientTransformationExtraArgs:
    """Adam as Keras computes it.

    Kingma and Ba, "Adam", ICLR 2015, in the form at the end of their section 2: epsilon is added to
    the root of the second moment before bias correction. This matters for gradients not far above
    epsilon, such as those of rare words.

    Args:
        learning_rate: the learning rate, or its schedule.
        epsilon: Adam's epsilon.
        b1: the decay rate of the first moment, in [0, 1).
        b2: the decay rate of the second moment, in [0, 1).
        weight_decay: as in `make`.

    Raises:
        ValueError: a decay is not in [0, 1).
    """
    if not (0 <= b1 < 1 and 0 <= b2 < 1):
        raise ValueError(f"b1={b1} and b2={b2} of adam must be in [0, 1)")
    return optax.inject_hyperparams(_decaying(optax.adam, weight_decay))(
        learning_rate=learning_rate,
        b1=b1,
        b2=b2,
        eps=lambda step: epsilon / jnp.sqrt(1 - b2 ** (step + 1)),
    )


@functools.cache
def _of_optax() -> dict[str, Callable[..., Any]]:
    """The optax optimisers that are available by name."""
    return {
        name: value
        for module in (optax, optax.contrib)
        for name, value in vars(module).items()
        if (inspect.isfunction(value) or isinstance(value, functools.partial))
        and name not in _REFUSED
        and not name.startswith(("_", "scale_by", "inject"))
        and next(iter(inspect.signature(value).parameters), "") == "learning_rate"
    }


def names() -> list[str]:
    """The names of all optimisers, in alphabetical order.

    They are `adam` and the optax optimisers that need only gradients, state and parameters.
    """
    return sorted({"adam", *_of_optax()})


def option_names(name: str) -> list[str]:
    """The options of an optimiser, except weight decay, which `make` offers for all."""
    if name == "adam":
        return ["b1", "b2"]
    parameters = inspect.signature(_of_optax()[name]).parameters
    return [one for one in parameters if one != "learning_rate" and not _is_of_decay(one)]


def make(
    name: str,
    learning_rate: float | optax.Schedule,
    options: Mapping[str, Any] | None = None,
    *,
    adam_epsilon: float = 1e-7,
    weight_decay: float = 0.0,
    clip_norm: float = 0.0,
    groups: Sequence[Group] = (),
    updates_an_epoch: int = 0,
) -> optax.GradientTransformationExtraArgs:
    """Makes the optimiser of a run.

    Args:
        name: one of `names()`.
        learning_rate: a constant, or a function of the number of updates made before.
        options: further arguments of the optimiser.
        adam_epsilon: epsilon of `adam`.
        weight_decay: w: in addition to its update, a matrix or an embedding table p loses
            learning_rate x w x p, whatever its gradient (Loshchilov and Hutter, "Decoupled weight
            decay regularization", ICLR 2019, with w times the rate, as in PyTorch and optax).
            Biases and gains, which are vectors, are not decayed.
        clip_norm: longer gradients are first scaled down to this Euclidean norm (Pascanu, Mikolov
            and Bengio, "On the difficulty of training recurrent neural networks", ICML 2013);
            0: no clipping.
        groups: groups of parameters with their own training settings.
        updates_an_epoch: the number of updates in an epoch, for groups that start frozen.

    Raises:
        ValueError: there is no such optimiser, or it does not accept these options; the message
            says why.
    """

    def of_group(group: Group) -> optax.GradientTransformationExtraArgs:
        decay = weight_decay if group.decay else 0.0
        return _find(name, options or {}, adam_epsilon, decay)(_times(learning_rate, group.rate))

    clip = optax.clip_by_global_norm(clip_norm) if clip_norm else optax.identity()
    if groups:
        return split(groups, of_group, clip, updates_an_epoch)
    optimizer = of_group(Group("*"))
    return optax.chain(clip, optimizer) if clip_norm else optimizer


def _times(learning_rate: float | optax.Schedule, factor: float) -> float | optax.Schedule:
    if factor == 1:
        return learning_rate
    if callable(learning_rate):
        return lambda count: factor * learning_rate(count)
    return factor * learning_rate


def _find(name: str, options: Mapping[str, Any], adam_epsilon: float, weight_decay: float) -> Rated:
    """Returns a function from a learning rate to the optimiser, whose state then holds the rate."""
    if name in _REFUSED:
        raise ValueError(f"optax's {name} cannot be used: {_REFUSED[name]}")
    if name not in names():
        raise ValueError(f"unknown optimizer {name!r}; choose one of {', '.join(names())}")
    if unknown := sorted(options.keys() - set(option_names(name))):
        decays = " (weight_decay is a field of its own)" if _is_of_decay(unknown[0]) else ""
        raise ValueError(
            f"the optimizer {name} has no option {unknown[0]!r}{decays}; it has "
            f"{', '.join(option_names(name)) or 'none'}"
        )
    if name == "adam":
        keras = {"epsilon": adam_epsilon, "weight_decay": weight_decay}
        make_rated: Rated = functools.partial(adam, **keras, **options)
    else:
        make_rated = _rated(name, options, weight_decay)
    try:
        jax.eval_shape(lambda: _one_update(make_rated(1.0)))
    except Exception as error:  # Whatever optax raises.
        given = ", ".join(f"{key}={value!r}" for key, value in options.items())
        raise ValueError(
            f"the optimizer {name} cannot have the options {given}: {error}"
        ) from error
    return make_rated


def _rated(name: str, options: Mapping[str, Any], weight_decay: float) -> Rated:
    factory = _of_optax()[name]
    static = dict(options)
    if name in _DECAYS_INSIDE:
        static |= {"weight_decay": weight_decay, _DECAYS_INSIDE[name]: are_matrices}
    elif "weight_decay" in inspect.signature(factory).parameters:
        static["weight_decay"] = 0.0
    decaying = _decaying(factory, 0.0 if name in _DECAYS_INSIDE else weight_decay)
    others = inspect.signature(factory).parameters.keys() - {"learning_rate"}
    return functools.partial(optax.inject_hyperparams(decaying, static_args=others), **static)


def _decaying(factory: Callable[..., Any], weight_decay: float) -> Callable[..., Any]:
    """Adds weight decay, if there is any, to the optimisers that a factory makes."""
    if not weight_decay:
        return factory

    @functools.wraps(factory)  # Optax inspects its signature.
    def make_decaying(learning_rate, **options):
        decay = optax.add_decayed_weights(-learning_rate * weight_decay, are_matrices)
        return optax.chain(factory(learning_rate=learning_rate, **options), decay)

    return make_decaying


def are_matrices(params: Any) -> Any:
    """Whether each parameter of one seed is a matrix or a table rather than a vector."""
    return jax.tree.map(lambda leaf: jnp.ndim(leaf) >= 2, params)


def _one_update(optimizer: optax.GradientTransformationExtraArgs) -> Any:
    params = {"matrix": jnp.ones((4, 4)), "vector": jnp.ones(4)}
    return optimizer.update(params, optimizer.init(params), params)
