"""The steps of training and evaluation become programs for GPUs and TPUs, which are not here."""

import jax
import numpy as np
import optax
import pytest

from seqmodels import factory, loading
from seqmodels.cells import base
from seqmodels.recurrence import engines
from tests import accelerators
from train_lib.data.dataset import Split
from train_lib.tasks.classes import Classes
from train_lib.training import Program, devices, fitting
from train_lib.training.batching import DeviceSplit

TARGETS = {"cudnn": "cudnn_rnn", "fused": "gpu.triton", "pointwise": "gpu.triton"}
"""What the program calls, for engines that are not made of XLA's own operations."""

pytestmark = pytest.mark.filterwarnings("ignore:The Pallas Triton backend is deprecated")


@pytest.fixture(params=accelerators.BACKENDS)
def platform(request, monkeypatch):
    """A platform, with engines chosen as on it."""
    accelerators.pretend(monkeypatch, accelerators.BACKENDS[request.param])
    # A callback, with which the engine newton warns, lowers only where it will run.
    monkeypatch.setattr(jax.debug, "callback", lambda *_: None)
    return request.param


def lowered(platform, seeds=(0,), **options):
    """The texts of both steps of a small model, and the names of its engines."""
    options = {"vocabulary_size": 9, "embedding_size": 2, "hidden_sizes": (3,)} | options
    models = factory.build_all(seeds=seeds, num_outputs=1, **options)
    task = Classes(["no", "yes"])
    program = Program(models, task, optax.adam(1e-2), batch_size=4)
    texts = [np.arange(1, 1 + length) for length in (1, 5, 3, 2)]
    split = Split.of(texts, ["no", "yes"] * 2).encoded(task)
    plans = [np.arange(4)]
    places = program.layout.place_all(plans, split.lengths, 1)
    on_device = devices.replicate(DeviceSplit.of(split, task), program.mesh)
    state = fitting.start(program, seeds).training.state
    train = program.compiled.train.trace(
        state, on_device, devices.spread(np.stack([places] * len(seeds)), program.mesh), 1, (5,)
    )
    evaluate = program.compiled.evaluate.trace(
        state.params, on_device, devices.spread(places, program.mesh), (5,)
    )
    steps = [one.lower(lowering_platforms=(platform,)).as_text() for one in (train, evaluate)]
    return steps, models[0].encoder.engine_names()


def check(platform, **options):
    steps, names = lowered(platform, **options)
    for text in steps:
        for engine, target in TARGETS.items():
            assert (target in text) == any(TARGETS.get(name) == target for name in names), engine
    return names


@pytest.mark.parametrize("cell", loading.cell_names())
def test_every_cell(cell, platform):
    (name,) = check(platform, cell=cell)
    kind = loading.find_cell(cell)
    if platform == "cuda" and issubclass(kind, base.GatedCell):
        assert name == ("cudnn" if cell == "lstm" else "fused")
    if issubclass(kind, base.PointwiseCell) and not issubclass(kind, base.LinearCell):
        assert name == {"cuda": "pointwise", "tpu": "loop"}[platform]


@pytest.mark.parametrize("cell", ["gru", "sru"])
def test_both_directions_of_a_layer_are_one_kernel(cell, monkeypatch):
    accelerators.pretend(monkeypatch, "gpu")
    train, evaluate = lowered("cuda", cell=cell, direction="bidirectional")[0]
    assert [text.count("@__gpu$xla.gpu.triton") for text in (train, evaluate)] == [2, 1]


@pytest.mark.slow
@pytest.mark.parametrize("cell", loading.cell_names())
def test_every_engine_that_a_cell_qualifies_for(cell, platform):
    model = factory.build(vocabulary_size=9, embedding_size=2, hidden_sizes=(3,), cell=cell, seed=0)
    (layer,) = model.encoder.layers
    by_itself = engines.choose(engines.AUTO, layer.forward)  # `test_every_cell` takes that.
    for engine, entry in engines.TABLE.items():
        is_there = platform == "cuda" or engine not in TARGETS
        if engine != by_itself and is_there and entry.why_not(layer.forward) is None:
            assert check(platform, cell=cell, engine=engine) == [engine]


@pytest.mark.slow
@pytest.mark.parametrize("cell", ["lstm", "gru", "min_gru"])
def test_seeds_directions_and_layers(cell, platform):
    sizes = {"hidden_sizes": (3, 3), "direction": "bidirectional"}
    check(platform, cell=cell, seeds=[0, 1, 2, 3], **sizes)
    check(platform, cell=cell, dropout_rates=(0.1, 0.1), **sizes)
    check(platform, cell=cell, matrix_dtype="tensorfloat32", **sizes)


@pytest.mark.slow
def test_bfloat16(platform):
    expected = {"cuda": "fused", "tpu": "loop"}[platform]
    assert check(platform, cell="lstm", matrix_dtype="bfloat16") == [expected]


@pytest.mark.slow
def test_segments(platform):
    assert check(platform, cell="lstm", segment_steps=2) == ["loop"]
