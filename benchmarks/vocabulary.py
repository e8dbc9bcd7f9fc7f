"""The cost of a language model's training step, against the number of tokens.

python -m benchmarks.vocabulary --tokens=50000 --sampled=0,1024
python -m benchmarks.vocabulary --tokens=50000 --sampled=1024 --tied --rows=64 --steps=35

It prints the milliseconds per update, and the megabytes that the compiled program needs besides its
arguments, on one device. Tokens follow Zipf's law; nothing is learnt.
"""

import argparse
import sys
import time

import jax
import numpy as np
from flax import nnx
from jax.sharding import AxisType

from seqmodels import factory
from train_lib.data.dataset import Split
from train_lib.tasks.next_token import NextToken
from train_lib.training import devices, optimizers, state
from train_lib.training.batching import DeviceSplit, Treatment
from train_lib.training.program import compile_steps
from train_lib.training.steps import Learner


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=50_000)
    parser.add_argument("--sampled", default="0,1024", help="tokens drawn; 0: all are computed")
    parser.add_argument("--embedding", type=int, default=256, help="width of a token's vector")
    parser.add_argument("--hidden", type=int, default=256, help="units of the LSTM")
    parser.add_argument("--tied", action="store_true", help="the head uses the embedding's table")
    parser.add_argument("--rows", type=int, default=64, help="rows of a block")
    parser.add_argument("--blocks", type=int, default=1, help="blocks of a batch")
    parser.add_argument("--steps", type=int, default=35, help="steps of a row")
    parser.add_argument("--updates", type=int, default=5, help="updates to time; prints the median")
    arguments = parser.parse_args(argv)
    devices.configure()
    for sampled in map(int, arguments.sampled.split(",")):
        seconds, megabytes = measure(arguments, sampled)
        print(
            f"{arguments.tokens:,} tokens, {sampled or 'all'} computed: "
            f"{1000 * seconds:,.0f} ms an update, {megabytes:,.0f} MB",
            flush=True,
        )


def measure(arguments: argparse.Namespace, sampled: int) -> tuple[float, float]:
    """The median seconds of an update, and the megabytes of its temporary arrays."""
    tokens, rows, steps = arguments.tokens, arguments.rows, arguments.steps
    model = factory.build(
        seed=0,
        vocabulary_size=tokens,
        num_outputs=tokens,
        per_step=True,
        embedding_size=arguments.embedding,
        hidden_sizes=(arguments.hidden,),
        projection_size=arguments.embedding if arguments.tied else 0,
        tied_head=arguments.tied,
    )
    task = NextToken([("", None)] * tokens, sampled_tokens=sampled)
    mesh = jax.make_mesh((1, 1), ("seed", "batch"), (AxisType.Auto,) * 2, devices=jax.devices()[:1])
    graphdef, params = nnx.split(model, nnx.Param)
    optimizer = optimizers.make("adam", 1e-3)
    compiled = compile_steps(Learner(graphdef, task, optimizer, Treatment(reads_on=True)), mesh)
    all_rows = rows * arguments.blocks
    values = np.random.default_rng(0).zipf(1.2, all_rows * steps).clip(max=tokens - 1)
    split = Split(values.astype(np.int32), np.array([0, len(values)]), None)
    split = split.with_next_tokens(None).in_blocks(steps)
    carries = jax.tree.map(
        lambda leaf: np.broadcast_to(leaf, (1, arguments.blocks, *leaf.shape)),
        model.initial_carries(rows),
    )
    params_K = jax.tree.map(lambda leaf: leaf[None], params)
    arrays = (
        state.create(params_K, optimizer, [0])._replace(carries=carries),
        DeviceSplit.of(split, task, training=True),
        np.arange(all_rows, dtype=np.int32).reshape(1, 1, 1, arguments.blocks, rows),
    )
    run = compiled.train.lower(*arrays, 1, (steps,)).compile()
    megabytes = run.memory_analysis().temp_size_in_bytes / 1e6
    training, seconds = arrays[0], []
    for _ in range(arguments.updates + 1):
        before = time.perf_counter()
        training, _ = jax.block_until_ready(run(training, *arrays[1:], 1))
        seconds.append(time.perf_counter() - before)
    return float(np.median(seconds[1:])), megabytes


if __name__ == "__main__":
    main(sys.argv[1:])
