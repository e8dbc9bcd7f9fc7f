"""The learning rate of every update."""

import dataclasses
import math

import jax
import jax.numpy as jnp

SCHEDULES = ("constant", "linear", "cosine", "inverse_sqrt", "one_cycle")

ENDING = ("linear", "cosine", "one_cycle")
"""Schedules whose rates all depend on the length of the run."""

_ONE_CYCLE_START = 1 / 25  # Share of the rate; as in PyTorch's OneCycleLR.
_ONE_CYCLE_WARMUP = 0.3  # Share of the run for warm-up, unless given; likewise.


@dataclasses.dataclass(frozen=True)
class Schedule:
    """The learning rate of every update, as a function of the number of updates before it.

    With n updates before, W of warm-up, N in all, final share F and t = (n - W) / (N - W), the rate
    is `learning_rate` times

        (n + 1) / W                            during warm-up (Goyal et al., "Accurate, large
                                               minibatch SGD", 2017, section 2.2); after it
        constant      1
        linear        1 - (1 - F) t
        cosine        F + (1 - F) (1 + cos(pi t)) / 2      (Loshchilov and Hutter, "SGDR", ICLR
                                               2017, equation 5, without restarts)
        inverse_sqrt  sqrt(max(W, 1) / (n + 1))            (Vaswani et al., "Attention is all you
                                               need", 2017, equation 3, whose highest rate this is)
        one_cycle     as cosine; warm-up rises from 1/25 along half a cosine (Smith and Topin,
                                               "Super-convergence", 2018, in the form of PyTorch's
                                               OneCycleLR). Momentum does not change.

    Attributes:
        name: one of `SCHEDULES`.
        learning_rate: the highest one.
        num_updates: N.
        warmup_updates: W.
        final_share: F, in [0, 1], of linear, cosine and one_cycle.
    """

    name: str
    learning_rate: float
    num_updates: int
    warmup_updates: int = 0
    final_share: float = 0.0

    @classmethod
    def of(
        cls,
        name: str,
        learning_rate: float,
        num_updates: int,
        warmup: float = 0,
        final_share: float = 0.0,
    ) -> "Schedule":
        """Makes the schedule of a run of `num_updates` updates.

        Args:
            name: one of `SCHEDULES`.
            learning_rate: the highest one.
            num_updates: updates in the run.
            warmup: below 1 a share of the run, otherwise a number of updates; 0 means 0.3 for
                one_cycle.
            final_share: as the attribute.

        Raises:
            ValueError: warm-up would not end before the run.
        """
        if name == "one_cycle" and warmup == 0:
            warmup = _ONE_CYCLE_WARMUP
        warmup_updates = round(warmup * num_updates) if warmup < 1 else int(warmup)
        if warmup_updates >= num_updates:
            raise ValueError(
                f"a warm-up of {warmup_updates:,} updates does not end before the run, which has "
                f"{num_updates:,}"
            )
        return cls(name, learning_rate, num_updates, warmup_updates, final_share)

    @property
    def is_constant(self) -> bool:
        return self.name == "constant" and not self.warmup_updates

    def __call__(self, step: jax.Array | int) -> jax.Array:
        """The rate of the update after `step` others; float32."""
        done = jnp.asarray(step, jnp.float32)
        total, warmup, final = self.num_updates, self.warmup_updates, self.final_share
        part = (done - warmup) / (total - warmup)
        match self.name:
            case "linear":
                share = 1 - (1 - final) * part
            case "inverse_sqrt":
                share = jnp.sqrt(max(warmup, 1) / (done + 1))
            case "cosine" | "one_cycle":
                share = final + (1 - final) * (1 + jnp.cos(math.pi * part)) / 2
            case _:
                share = jnp.ones(())
        if warmup:
            rising = (done + 1) / warmup
            if self.name == "one_cycle":
                half = (1 - jnp.cos(math.pi * done / warmup)) / 2
                rising = _ONE_CYCLE_START + (1 - _ONE_CYCLE_START) * half
            share = jnp.where(done < warmup, rising, share)
        return self.learning_rate * share
