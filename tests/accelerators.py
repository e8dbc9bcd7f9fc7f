"""GPUs and TPUs that are not here, as far as choosing and lowering a program goes."""

import functools
from types import SimpleNamespace

import jax
from jax.experimental import rnn
from jax.interpreters import mlir
from jaxlib import gpu_rnn

BACKENDS = {"cuda": "gpu", "tpu": "tpu"}
"""The platforms that programs are lowered for, and the names of their backends."""

_GPU = SimpleNamespace(
    compute_capability="9.0", client=SimpleNamespace(platform_version="cuda"), platform="gpu"
)


class _Plugin:
    @staticmethod
    def build_rnn_descriptor(*numbers):
        return repr(numbers).encode()


def pretend(monkeypatch, backend):
    """Makes engines be chosen as on a `cpu`, `gpu` or `tpu`."""
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    if backend == "gpu":
        monkeypatch.setattr(jax, "local_devices", lambda *_, **__: [_GPU])
    ask_no_cudnn(monkeypatch)


def ask_no_cudnn(monkeypatch):
    """Answers what JAX asks the CUDA plugin while it lowers, where that is not installed."""
    sizes = "compute_rnn_workspace_reserve_space_sizes"
    if hasattr(gpu_rnn, sizes):
        return
    monkeypatch.setattr(gpu_rnn, sizes, lambda *_: (8, 8), raising=False)
    for primitive, rule in (
        (rnn.rnn_fwd_p, gpu_rnn._rnn_fwd_lowering),
        (rnn.rnn_bwd_p, gpu_rnn._rnn_bwd_lowering),
    ):
        mlir.register_lowering(primitive, functools.partial(rule, _Plugin, "cu"), platform="cuda")
