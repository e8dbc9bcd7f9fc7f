"""What commit 5c8d0d5 made, against what is made now.

`tests/golden/` was made once, on the machine and with the versions that `reference.json` names,
and is never made again:

    reference.json, reference.npz  `measure()` of this file, called at commit 5c8d0d5 (where
                                   the functions had other names) under the compiler
                                   flags of `tests/conftest.py`: its two results.
    operations.json                `count_operations` and `count_compiled_operations`, at commit
                                   5c8d0d5 and at 1bb8eb8, the last one before the redesign, which
                                   the tests hold to: masking what is undefined has cost some
                                   between them. Two CPU devices, no compiler flags.
    runs.tar.xz                    folders of runs by `main.py` and `train_lib.baselines` of 5c8d0d5
                                   with those flags, two CPU devices, the data of `SMALL_DATA`
                                   and a vocabulary of 100:
        finished        --config=configs/bilstm.py:tutorial, embedding 4, hidden (4,), 2 seeds,
                        2 epochs, batches of 4, learning rate .01
        killed          --config=configs/lstm.py, dropout (.3,), the rest the same, a checkpoint
                        every 16 steps of which 1 is kept; SIGTERM in the second epoch
        resumed         what a copy of `killed` ended with when the same commit went on with it;
                        weights, predictions, metrics and result alone
        baseline        logistic regression on the same data
        predicted.json  what `predict` said of `SMALL_TEXTS`, by the last and the best weights

All that this file uses of the program is in the functions before the tests.
"""

import csv
import hashlib
import importlib
import json
import os
import pathlib
import platform
import re
import subprocess
import sys
import tarfile
from importlib import metadata

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit

from seqmodels import dropout
from tests.marks import slow
from train_lib import building, run
from train_lib.analysis import comparison
from train_lib.data.inputs import Text
from train_lib.data.vocabulary import Vocabulary
from train_lib.records import curves, description, finished
from train_lib.records.folder import RunFolder
from train_lib.restored import Restored
from train_lib.tasks.classes import Classes
from train_lib.training import batching, devices, fitting, optimizers
from train_lib.training.program import Program

GOLDEN = pathlib.Path(__file__).parent / "golden"
MODELS = ("lstm", "bilstm", "stacked")
EXPERIMENTS = [(name, treatment) for name in MODELS for treatment in ("exact", "tutorial")]
SEEDS = (1, 3)
SMALL_DATA = {
    "source": "generated", "train_examples": 192, "validation_examples": 64, "test_examples": 64,
    "max_length_tokens": 60, "max_features": 400,
}  # fmt: skip
BATCH_SIZE = 32
UPDATES = 20
SPLITS = ("train", "validation", "test")


# What is measured, by the program's functions.


def small_config(name, treatment, seeds=1):
    config = importlib.import_module(f"configs.{name}").get_config(treatment)
    config.data.update(SMALL_DATA)
    config.train.batch_size, config.train.seeds = BATCH_SIZE, seeds
    return config


def read_data(config):
    """The fingerprint and, of each split, its arrays of whole numbers by their names."""
    data, _ = building.load_data(config)
    return data.fingerprint, {
        split: {
            "tokens": getattr(data, split).values,
            "offsets": getattr(data, split).offsets,
            "targets": getattr(data, split).targets.astype(np.int64),
        }
        for split in SPLITS
    }


def program_of(config, inputs=None, task=None):
    """The program of a config, and where training begins."""
    inputs = inputs or Text(Vocabulary([]), "keras")
    task = task or Classes(["negative", "positive"])
    seeds = building.seeds_asked(config)
    program = Program(
        building.build_models(config, inputs, task, seeds),
        task,
        optimizers.adam(config.train.learning_rate, config.train.adam_epsilon),
        batch_size=config.train.batch_size,
        treatment=building.treatment_of(config),
    )
    return program, fitting.start(program, seeds).training


def first_parameters(config):
    """The parameters that training starts from, by their paths; each `[K, ...]`."""
    program, _ = program_of(config)
    leaves = jax.tree_util.tree_leaves_with_path(program.params_K)
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): np.asarray(leaf)
        for path, leaf in leaves
    }


def plan(config, epochs):
    """Of each seed and epoch, which examples meet in a batch, and their places: `[S, P, N, R]`."""
    data, mesh = building.load_data(config)[0], devices.mesh(config.train.seeds)
    layout, lengths = devices.layout(BATCH_SIZE, mesh), data.train.lengths
    planned = []
    for seed in building.seeds_asked(config):
        for epoch in range(1, epochs + 1):
            rng = np.random.default_rng([seed, epoch])
            plans = batching.plans(lengths, building.treatment_of(config), BATCH_SIZE, rng)
            planned.append((plans, layout.place_all(plans, lengths, len(plans))))
    return planned


def train(config, all_widths=True):
    """Makes `UPDATES` updates, of whole epochs but for the last.

    Args:
        config: of the run.
        all_widths: that rows may have; else only the widest, which is compiled sooner.

    Returns:
        The loss of each step, `[K, S]`, and the logits of validation and test examples, `[K, N]`.
    """
    data, task = building.load_data(config)
    program, training = program_of(config, data.inputs, task)
    on_device = batching.DeviceSplit.of(data.train, task)
    on_device = devices.replicate(on_device, program.mesh)
    widths = batching.row_widths(data.train, [data.validation, data.test], program.treatment)
    widths = widths if all_widths else widths[-1:]
    state_K, losses = training.state, []
    steps_an_epoch = SMALL_DATA["train_examples"] // BATCH_SIZE
    planned = plan(config, -(-UPDATES // steps_an_epoch))
    by_epoch = np.array([places for _, places in planned])
    places_KxS = by_epoch.reshape(config.train.seeds, -1, *by_epoch.shape[2:])
    for first in range(0, UPDATES, steps_an_epoch):
        places = devices.spread(places_KxS[:, first : first + steps_an_epoch], program.mesh)
        count = min(steps_an_epoch, UPDATES - first)
        state_K, sums_KxS = program.compiled.train(state_K, on_device, places, count, widths)
        losses.append(np.asarray(sums_KxS["loss"])[:, :count] / BATCH_SIZE)
    logits = [
        program.evaluate(state_K.params, split, widths).kept["outputs"][..., 0]
        for split in (data.validation, data.test)
    ]
    return np.concatenate(losses, 1), *logits


def masks():
    """What is dropped of 5 inputs at 60 steps of 7 reviews, at the stacked model's rates."""
    key = jax.random.fold_in(jax.random.key(0), 3)  # Of seed 0, after 3 updates.
    keys_B = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(7))
    ones = jnp.ones((60, 5, 7))
    return [np.asarray(dropout.drop_all(ones, rate, keys_B)) == 0 for rate in (0.3, 0.2)]


def lowered_step(name, treatment):
    """The train step of a reference as on IMDB, lowered for two devices."""
    config = importlib.import_module(f"configs.{name}").get_config(treatment)
    program, training = program_of(config)
    longest = 2494
    widths = batching.fractions(longest) if config.data.mask_padding else (longest,)
    layout = program.layout
    shape = layout.devices, layout.blocks, layout.rows

    def split(examples):
        arrays = (np.int32, 230 * examples), (np.int32, examples), (np.int32, examples)
        arrays = [np.zeros(size, dtype) for dtype, size in (*arrays, (np.float32, examples))]
        return devices.replicate(batching.DeviceSplit(*arrays), program.mesh)

    places = devices.spread(np.zeros((1, fitting.STEPS_A_CALL, *shape), np.int32), program.mesh)
    train = program.compiled.train.lower(
        training.state, split(15_000), places, fitting.STEPS_A_CALL, widths
    )
    return train


SMALL_TEXTS = [
    "the plot was not dull but clever.",
    "the acting was boring rather than charming.",
    "my aunt, who is wrong about every film, told me what follows. " * 9,
    "",
]


def probabilities(folder, weights):
    """What each seed of a finished run says of `SMALL_TEXTS`: `[K, N]`."""
    restored = Restored(str(folder), best=weights.startswith("best"))
    split = restored.encode(SMALL_TEXTS, str)
    logits = [kept["outputs"][:, 0] for kept in restored.answer(split)]
    return expit(np.stack(logits))


def compared(folders):
    """What `compare` finds: of each run its mean accuracy, and of each pair the difference."""
    found = comparison.compare(finished.load([str(folder) for folder in folders]))
    accuracies = [one["score"]["mean"] for one in found["runs"]]
    return accuracies, [pair["mean"] for pair in found["pairs"]]


def resume(folder):
    """Resumes a run of which there is only the folder; draws nothing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(curves, "draw", lambda *_: None)
        patch.setattr(description, "write_pictures", lambda *_: None)
        return run.run(RunFolder(folder).read_config(), str(folder))


# What is written down of it.


def digest(*arrays):
    """The SHA-256 of arrays, with their shapes; of whole numbers, however wide they are stored."""
    sha256 = hashlib.sha256()
    for array in arrays:
        is_whole = np.issubdtype(array.dtype, np.integer)
        array = np.ascontiguousarray(array, np.int64 if is_whole else None)
        sha256.update(f"{array.dtype.str}{array.shape}".encode() + array.tobytes())
    return sha256.hexdigest()


def sample(array_K):
    """At most 32 numbers of each seed, spread evenly over an array `[K, ...]`."""
    flat = array_K.reshape(len(array_K), -1)
    return flat[:, np.linspace(0, flat.shape[1] - 1, min(32, flat.shape[1])).astype(int)]


def circumstances():
    """What the last bits of numbers depend on: versions, and the machine's CPU."""
    cpu = pathlib.Path("/proc/cpuinfo")
    text = cpu.read_text("utf-8", "replace") if cpu.exists() else ""
    shown = [
        found[1]
        for name in ("model name", "cpu family", "model", "stepping")
        if (found := re.search(rf"^{name}\s*: (.*)$", text, re.MULTILINE))
    ]
    return {
        "versions": {name: metadata.version(name) for name in ("jax", "jaxlib", "flax", "numpy")},
        "cpu": ", ".join(shown) or platform.machine(),
        "devices": jax.device_count(),
    }


def measure_plan(config):
    planned = plan(config, 2)
    return [{"plans": digest(*plans), "places": digest(places)} for plans, places in planned]


def measure():
    """Everything, as `reference.json` and `reference.npz` hold it."""
    fingerprint, splits = read_data(small_config("lstm", "exact"))
    words = {"circumstances": circumstances(), "fingerprint": fingerprint}
    words["splits"] = {
        split: {name: digest(array) for name, array in arrays.items()}
        for split, arrays in splits.items()
    }
    words["longest"] = {
        split: int(np.diff(arrays["offsets"]).max()) for split, arrays in splits.items()
    }
    words["masks"] = [digest(mask) for mask in masks()]
    words["parameters"], words["plans"], arrays = {}, {}, {}
    for name, treatment in EXPERIMENTS:
        for seeds in SEEDS:
            config, key = small_config(name, treatment, seeds), f"{name}-{treatment}-{seeds}"
            first = first_parameters(config)
            words["parameters"][key] = {path: digest(leaf) for path, leaf in first.items()}
            words["plans"][key] = measure_plan(config)
            if treatment == "exact" and seeds == max(SEEDS):
                arrays |= {f"{name}.first.{path}": sample(leaf) for path, leaf in first.items()}
            trained = zip(("losses", "validation", "test"), train(config), strict=True)
            arrays |= {f"{key}.{what}": array for what, array in trained}
    return words, arrays


FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "return"}
"""What a program is written with, and nothing is computed by."""


def count_operations(lowered):
    """How often each kind of operation stands in a step, as lowered: functions are not counted."""
    kinds = re.findall(r"(?<![#!\w])stablehlo\.(\w+)", lowered.as_text())
    return {kind: kinds.count(kind) for kind in sorted(set(kinds))}


def count_compiled_operations(lowered):
    """How often each kind of operation stands in a step, as compiled, fused ones included."""
    text = lowered.compile().as_text()
    # As in `%add.7 = f32[16,128]{1,0} add(...)`; the shape of a tuple is in brackets.
    kinds = re.findall(
        r"^\s+(?:ROOT )?%?\S+ = (?:\((?:[^()]|\([^()]*\))*\)|\S+) ([\w-]+)\(", text, re.MULTILINE
    )
    return {kind: kinds.count(kind) for kind in sorted(set(kinds))}


def count_work(kinds):
    return sum(number for kind, number in kinds.items() if kind not in FREE)


# What is compared.

REFERENCE = json.loads((GOLDEN / "reference.json").read_text("utf-8"))
OPERATIONS = json.loads((GOLDEN / "operations.json").read_text("utf-8"))
CASES = [(*experiment, seeds) for experiment in EXPERIMENTS for seeds in SEEDS]
TRAINED = [("bilstm", "tutorial", 3), slow("stacked", "exact", 1)]


@pytest.fixture(scope="module")
def arrays():
    with np.load(GOLDEN / "reference.npz", allow_pickle=False) as file:
        return dict(file)


@pytest.fixture
def runs(tmp_path):
    """The folder with what is in `runs.tar.xz`."""
    with tarfile.open(GOLDEN / "runs.tar.xz") as file:
        file.extractall(tmp_path / "runs", filter="data")
    return tmp_path / "runs"


def is_same_machine():
    return circumstances() == REFERENCE["circumstances"]


def test_data_are_the_same():
    fingerprint, splits = read_data(small_config("lstm", "exact"))
    assert fingerprint == REFERENCE["fingerprint"]
    for split, arrays in splits.items():
        digests = {name: digest(array) for name, array in arrays.items()}
        assert digests == REFERENCE["splits"][split], split
        # So that it does not matter to which longest the tutorial's evaluation pads.
        assert np.diff(arrays["offsets"]).max() == REFERENCE["longest"][split] == 60


def test_masks_are_the_same():
    assert [digest(mask) for mask in masks()] == REFERENCE["masks"]


@pytest.mark.parametrize(("name", "treatment", "seeds"), CASES)
def test_training_starts_from_the_same_parameters(name, treatment, seeds, arrays):
    found = first_parameters(small_config(name, treatment, seeds))
    if is_same_machine():  # Whatever the parameters are called by now.
        recorded = REFERENCE["parameters"][f"{name}-{treatment}-{seeds}"]
        assert sorted(map(digest, found.values())) == sorted(recorded.values())
    samples = [sample(leaf) for leaf in found.values()]
    prefix = f"{name}.first."
    recorded = [array[:seeds] for key, array in arrays.items() if key.startswith(prefix)]
    assert len(samples) == len(recorded)
    for array in recorded:
        assert any(is_close(array, one, 1e-6) for one in samples)


def is_close(one, other, tolerance):
    return one.shape == other.shape and np.allclose(one, other, rtol=0, atol=tolerance)


@pytest.mark.parametrize(("name", "treatment", "seeds"), CASES)
def test_batches_are_the_same(name, treatment, seeds):
    found = measure_plan(small_config(name, treatment, seeds))
    assert found == REFERENCE["plans"][f"{name}-{treatment}-{seeds}"]


def check_updates(name, treatment, seeds, arrays, all_widths):
    found = train(small_config(name, treatment, seeds), all_widths)
    for what, array in zip(("losses", "validation", "test"), found, strict=True):
        recorded = arrays[f"{name}-{treatment}-{seeds}.{what}"]
        np.testing.assert_allclose(array, recorded, rtol=0, atol=1e-5, err_msg=what)


# The losses tell of the dropout too: with other masks they differ in the third digit.
@pytest.mark.parametrize(("name", "treatment", "seeds"), TRAINED)
def test_updates_are_the_same(name, treatment, seeds, arrays):
    check_updates(name, treatment, seeds, arrays, all_widths=False)


@pytest.mark.slow
# Of one seed and of three.
@pytest.mark.parametrize(
    ("name", "treatment", "seeds"), [("lstm", "tutorial", 3), ("stacked", "exact", 1)]
)
def test_updates_are_the_same_in_rows_of_every_width(name, treatment, seeds, arrays):
    check_updates(name, treatment, seeds, arrays, all_widths=True)


def check_operations(name, treatment, kind, count):
    before = OPERATIONS["1bb8eb8"][f"{name}-{treatment}-train"][kind]
    now = count(lowered_step(name, treatment))
    more = {
        operation: (before.get(operation, 0), number)
        for operation, number in now.items()
        if number > before.get(operation, 0)
    }
    assert count_work(now) <= count_work(before), f"more of (before, now) {more}"


@pytest.mark.parametrize(("name", "treatment"), [("lstm", "exact"), ("stacked", "tutorial")])
def test_steps_have_no_more_operations(name, treatment):
    check_operations(name, treatment, "lowered", count_operations)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "treatment"), EXPERIMENTS)
def test_all_steps_have_no_more_operations(name, treatment):
    check_operations(name, treatment, "lowered", count_operations)


@pytest.mark.slow
@pytest.mark.skipif(
    jax.__version__ != REFERENCE["circumstances"]["versions"]["jax"],
    reason="another compiler makes another program",
)
@pytest.mark.parametrize(("name", "treatment"), [("lstm", "exact"), ("stacked", "tutorial")])
def test_compiled_steps_have_no_more_operations(name, treatment):
    """In a process of its own, without the flags that make the tests compile sooner."""
    code = (
        "import jax; jax.config.update('jax_num_cpu_devices', 2); import test_golden as t; "
        f"t.check_operations({name!r}, {treatment!r}, 'compiled', t.count_compiled_operations)"
    )
    paths = os.pathsep.join(map(str, (GOLDEN.parent, GOLDEN.parent.parent)))
    environment = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"}
    subprocess.run(
        [sys.executable, "-c", code], env=environment | {"PYTHONPATH": paths}, check=True,
        timeout=600,
    )  # fmt: skip


def read_result(folder):
    return json.loads((folder / "result.json").read_text("utf-8"))


def read_logits(folder):
    with open(folder / "predictions.csv", newline="", encoding="utf-8") as file:
        return np.array([float(row["logit"]) for row in csv.DictReader(file)])


def check_predicted(runs, name):
    predicted = json.loads((runs / "predicted.json").read_text("utf-8"))[name]
    for weights, recorded_KxN in predicted.items():
        found_KxN = probabilities(runs / name, weights)
        np.testing.assert_allclose(found_KxN, recorded_KxN, rtol=0, atol=1e-5, err_msg=weights)


def check_compared(first, second):
    before = [read_result(folder)["test_accuracy"]["mean"] for folder in (first, second)]
    accuracies, (difference,) = compared([first, second])
    np.testing.assert_allclose(accuracies, before, atol=1e-9)
    np.testing.assert_allclose(abs(difference), abs(before[1] - before[0]), atol=1e-9)


def test_a_finished_run_of_then_is_read(runs, capsys):
    check_predicted(runs, "finished")
    check_compared(runs / "finished", runs / "baseline")
    before = (runs / "finished" / "result.json").read_bytes()
    assert resume(runs / "finished") == json.loads(before)
    assert "is finished" in capsys.readouterr().out
    assert (runs / "finished" / "result.json").read_bytes() == before


@pytest.mark.slow
def test_a_run_killed_then_resumes(runs, capsys):
    """In the second of two epochs, and ends as it did when the same program went on with it."""
    recorded = (runs / "resumed").rename(runs / "recorded")
    folder = (runs / "killed").rename(runs / "resumed")
    resume(folder)
    assert "resuming from step 56, in epoch 2" in capsys.readouterr().out
    np.testing.assert_allclose(read_logits(folder), read_logits(recorded), rtol=0, atol=1e-5)
    for name in ("validation_accuracy", "test_accuracy"):
        assert read_result(folder)[name]["mean"] == read_result(recorded)[name]["mean"]
    rows = [(one / "metrics.jsonl").read_text("utf-8").splitlines() for one in (folder, recorded)]
    for now, before in zip(*(map(json.loads, lines) for lines in rows), strict=True):
        for name in ("train_loss", "validation_loss"):
            np.testing.assert_allclose(now["seeds"][name], before["seeds"][name], atol=1e-5)
    check_predicted(runs, "resumed")
    check_compared(folder, runs / "finished")
