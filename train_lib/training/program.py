"""The compiled program of K seeds: training and evaluation steps on all devices."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh, PartitionSpec

from train_lib.data.dataset import Split
from train_lib.tasks.base import Task
from train_lib.training import batching, devices, metrics, state
from train_lib.training.batching import EXACT, DeviceSplit, Treatment
from train_lib.training.recipe import PLAIN, Recipe
from train_lib.training.state import TrainState
from train_lib.training.steps import Learner, Sums

# K seeds, S steps, P devices, N blocks of R rows: see `batching.Layout`.


class Compiled(NamedTuple):
    """Compiled functions. Their last argument is the row widths allowed, in steps.

    Attributes:
        train: `(state_K, split, places_KxSxPxNxR, num_steps, widths) -> (state_K, sums_KxS)`; takes
            the first `num_steps` of the S steps; donates the old state's memory to the new one.
        evaluate: `(params_K, split, places_SxPxNxR, widths) -> (kept_KxSxPxNxR, sums_KxP)`. No
            device waits for another that may have far more to do, as with a stream in one row: XLA
            aborts a program whose devices wait for 40 seconds.
    """

    train: Callable[
        [TrainState, DeviceSplit, jax.Array, int, tuple[int, ...]], tuple[TrainState, Sums]
    ]
    evaluate: Callable[
        [nnx.State, DeviceSplit, jax.Array, tuple[int, ...]], tuple[dict[str, jax.Array], Sums]
    ]


def compile_steps(learner: Learner, mesh: Mesh, seeds_at_once: int = 1) -> Compiled:
    """Compiles the steps of many independent seeds.

    Args:
        learner: what each seed does.
        mesh: as made by `devices.mesh`.
        seeds_at_once: how many of its seeds a device computes together, by `vmap`; groups of this
            size run one after another.
    """
    whole, of_seed = PartitionSpec(), PartitionSpec("seed")
    of_state: Any = [of_seed] * 5 + [PartitionSpec("seed", "batch")]
    of_state = TrainState(*of_state)  # Carries have an axis of rows too.
    of_rows, of_seed_and_rows = PartitionSpec(None, "batch"), PartitionSpec("seed", None, "batch")
    on_devices = functools.partial(jax.shard_map, mesh=mesh, check_vma=False)

    def of_each_seed(function, *arrays_K):
        return jax.lax.map(
            lambda arrays: function(*arrays),
            arrays_K,
            batch_size=None if seeds_at_once == 1 else seeds_at_once,
        )

    @functools.partial(jax.jit, static_argnums=4, donate_argnums=0)
    def train(state_K, split, places_KxSxPxNxR, num_steps, widths):
        def on_device(state_K, split, places_KxSxPxNxR, num_steps):
            def one_seed(state, places_SxPxNxR):
                places_SxNxR = places_SxPxNxR[:, 0]  # This device's.
                return learner.train(state, places_SxNxR, split, num_steps, widths, "batch")

            return of_each_seed(one_seed, state_K, places_KxSxPxNxR)

        return on_devices(
            on_device,
            in_specs=(of_state, whole, of_seed_and_rows, whole),
            out_specs=(of_state, of_seed),
        )(state_K, split, places_KxSxPxNxR, num_steps)

    @functools.partial(jax.jit, static_argnums=3)
    def evaluate(params_K, split, places_SxPxNxR, widths):
        def on_device(params_K, split, places_SxPxNxR):
            def one_seed(params):
                places_SxNxR = places_SxPxNxR[:, 0]  # This device's.
                kept, sums = learner.evaluate(params, places_SxNxR, split, widths)
                kept = {name: rows[:, None] for name, rows in kept.items()}
                return kept, jax.tree.map(lambda one: one[None], sums)

            return of_each_seed(one_seed, params_K)

        return on_devices(
            on_device,
            in_specs=(of_seed, whole, of_rows),
            out_specs=(of_seed_and_rows, PartitionSpec("seed", "batch")),
        )(params_K, split, places_SxPxNxR)

    return Compiled(train, evaluate)


class Evaluation(NamedTuple):
    """The results of K seeds on a split of N examples.

    Attributes:
        metrics: each of the task's metrics, `[K]`.
        kept: what the task keeps of every item, in order: `[K, N, ...]` or, if the items are steps,
            those of all sequences end to end, `[K, S, ...]`.
        items: the number of items with a label.
    """

    metrics: dict[str, np.ndarray]
    kept: dict[str, np.ndarray]
    items: int

    def of_seeds(self, chosen_K: np.ndarray) -> "Evaluation":
        """The results of some of the seeds."""
        return Evaluation(
            {name: values_K[chosen_K] for name, values_K in self.metrics.items()},
            {name: of_items[chosen_K] for name, of_items in self.kept.items()},
            self.items,
        )


class Program:
    """Models that differ only in their parameters, their task, and the devices they run on.

    Args:
        models: one per seed, freshly initialised.
        task: what the models are trained for.
        optimizer: of each seed; None: the models will not be trained.
        batch_size: examples in a batch.
        treatment: how sequences of different lengths share a batch.
        recipe: what is done in addition to the optimiser's updates.

    Attributes:
        params_K: the models' parameters, with a leading axis of seeds.
        mesh: the devices they run on.
        layout: how the rows of an update are spread over the mesh.
        examples_a_step: examples in an update, which may comprise several batches.
    """

    def __init__(
        self,
        models: Sequence[nnx.Module],
        task: Task,
        optimizer: optax.GradientTransformation | None = None,
        *,
        batch_size: int,
        treatment: Treatment = EXACT,
        recipe: Recipe = PLAIN,
    ):
        self.task, self.treatment, self.batch_size = task, treatment, batch_size
        self.recipe = recipe
        self.optimizer = optax.identity() if optimizer is None else optimizer
        self.num_seeds = len(models)
        self._graphdef, self.params_K = state.split(models)
        self.mesh = devices.mesh(len(models), batch_size * recipe.accumulate_batches)
        self.layout = devices.layout(batch_size, self.mesh, recipe.accumulate_batches)
        self.examples_a_step = batch_size * recipe.accumulate_batches
        learner = Learner(self._graphdef, task, self.optimizer, treatment, recipe)
        self.compiled = compile_steps(learner, self.mesh, _seeds_at_once(models, self.mesh))

    def model(self, params: nnx.State) -> Any:
        """The model that has these parameters."""
        return nnx.merge(self._graphdef, params)

    def first_carries(self) -> Any:
        """The initial carries of each row of a batch, `[K, P * N, ...]`; None: no row reads on."""
        if not self.treatment.reads_on:
            return None
        shape = self.num_seeds, self.layout.devices * self.layout.blocks
        model = self.model(jax.tree.map(lambda leaf_K: leaf_K[0], self.params_K))
        carries = jax.tree.map(
            lambda leaf: np.broadcast_to(leaf, (*shape, *leaf.shape)),
            model.initial_carries(self.layout.rows),
        )
        return devices.spread_rows(carries, self.mesh)

    def evaluate(
        self,
        params_K: nnx.State,
        split: Split,
        widths: tuple[int, ...],
        batch_size: int | None = None,
    ) -> Evaluation:
        """Evaluates each seed on a split.

        Args:
            params_K: the parameters of each seed.
            split: sequences longer than the widest row keep only their last steps.
            widths: the row widths allowed, ascending.
            batch_size: examples in a batch; None: the program's batch size.
        """
        split, batch_size = split.last_steps(widths[-1]), batch_size or self.batch_size
        plans = batching.plans(split.lengths, self.treatment, batch_size)
        layout = devices.layout(batch_size, self.mesh)
        lengths = None if self.treatment.reads_on else split.lengths
        places = layout.place_all(plans, lengths, len(plans))
        on_device = devices.replicate(DeviceSplit.of(split, self.task), self.mesh)
        kept, sums_KxP = self.compiled.evaluate(
            params_K, on_device, devices.spread(places, self.mesh), widths
        )
        sums_K = metrics.add_up([sums_KxP])
        of_items = batching.by_example(devices.fetch(kept), places, len(split))
        if self.task.per_step:
            is_step = np.arange(widths[-1]) < split.lengths[:, None]
            of_items = {name: of_rows[:, is_step] for name, of_rows in of_items.items()}
        of_seeds = metrics.of_seeds(self.task, sums_K)
        return Evaluation(of_seeds, of_items, int(sums_K["weight"][0]))

    def test(self, params_K: nnx.State, split: Split, widths: tuple[int, ...]) -> Evaluation:
        """Evaluates each seed like `evaluate`, but reads a stream in one piece."""
        return self.evaluate(params_K, split, widths, 1 if self.treatment.reads_on else None)


def _seeds_at_once(models: Sequence[Any], mesh: Mesh) -> int:
    """The number of seeds that a device computes together."""
    encoder = getattr(models[0], "encoder", None)
    if encoder is not None and "cudnn" in encoder.engine_names():
        return 1  # `jax.experimental.rnn` has no batching rule.
    return devices.seeds_at_once(len(models), mesh)
