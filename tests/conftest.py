"""What all tests share."""

import contextlib
import gc
import os
import time

os.environ.setdefault("KERAS_BACKEND", "jax")

import jax
import pytest

# Two devices on any machine, so that batches are spread in the tests as they are in runs.
jax.config.update("jax_num_cpu_devices", 2)
# Most of the tests' time goes into compiling, here and in the programs that they start.
os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""), "--xla_backend_optimization_level=0",
        "--xla_llvm_disable_expensive_passes=true", "--xla_cpu_use_fusion_emitters=false",
        "--xla_cpu_parallel_codegen_split_count=1",  # The workers keep all CPUs busy as it is.
    ]
)  # fmt: skip


gc.set_threshold(50_000, 20, 50)  # What was compiled stays, and is looked through each time.


def pytest_configure(config):
    """What one worker compiled, none compiles again: not for another test, nor another time."""
    # A folder each: an entry that another process is just writing cannot be read.
    worker = os.environ.get("PYTEST_XDIST_WORKER", "main")
    folder = config.cache.mkdir(f"compiled-{worker}")
    config.compiled = folder
    # By default, the folder's name is part of what a program is looked up by.
    settings = {
        "jax_compilation_cache_dir": str(folder),
        "jax_persistent_cache_enable_xla_caches": "none",
        "jax_persistent_cache_min_compile_time_secs": 0,
    }
    for name, value in settings.items():
        os.environ[name.upper()] = str(value)
        jax.config.update(name, value)


@pytest.fixture(autouse=True, scope="module")
def others_programs(pytestconfig):
    """Takes over what other workers have compiled, and finished writing, since the last module."""
    own = pytestconfig.compiled
    known = set(os.listdir(own))
    for entry in own.parent.glob("compiled-*/*"):
        if entry.name not in known and entry.stat().st_mtime < time.time() - 5:
            with contextlib.suppress(FileExistsError):
                os.link(entry, own / entry.name)


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    """Keeps every test away from the user's cache and from the other tests' caches."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


LONG = (
    "test_faults", "test_check_cell", "test_loop", "test_model", "test_steps", "test_keeper",
    "test_recurrence", "test_initial_state", "test_fused", "test_keras", "test_dropout",
    "test_recipe", "test_documented_commands", "test_workers", "test_export", "test_distributed",
    "test_any_task", "test_answers", "test_seven_runs",
)  # fmt: skip


def pytest_collection_modifyitems(items):
    """The files that take longest first, so that in the end no worker waits for another."""
    items.sort(key=lambda item: item.path.stem not in LONG)
