"""What all tests share."""

import os

os.environ.setdefault("KERAS_BACKEND", "jax")

import jax
import pytest

# Two devices on any machine, so that batches are spread in the tests as they are in runs.
jax.config.update("jax_num_cpu_devices", 2)


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    """Keeps every test away from the user's cache and from the other tests' caches."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
