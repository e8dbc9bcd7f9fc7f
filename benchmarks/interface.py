"""The interface through which a library is measured; NumPy arrays in and out."""

import dataclasses
import importlib
import importlib.util
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

Weights = dict[str, np.ndarray]
"""Arrays under their names in this project, in the layout and order of Keras' `get_weights`."""


ARRAYS = {
    "lstm": ("kernel", "recurrent_kernel", "bias"),
    "gru": ("kernel", "recurrent_kernel", "bias", "recurrent_bias"),
}
"""The cells, with the arrays of a layer."""


class Batch(NamedTuple):
    """Reviews for one step; the padding is token 0."""

    tokens_BxT: np.ndarray
    lengths_B: np.ndarray
    labels_B: np.ndarray


@dataclasses.dataclass(frozen=True)
class Training:
    """A model and how it is trained.

    Attributes:
        vocabulary_size: the embedding's number of tokens.
        embedding_size: the embedding's width.
        hidden_sizes: those of the recurrent layers, from the bottom up.
        bidirectional: all layers run in both directions.
        dropout_rates: for each recurrent layer, the rate on its input.
        masked: padding follows the review and reaches no result. False: it precedes the review and
            is read like a word.
        optimizer: `adam` as in the tutorial, or `sgd`, of which one step shows the gradient.
        learning_rate: the optimizer's rate.
        cell: that of the layers, one of `ARRAYS`.
        batch_size: the most sequences in a batch.
    """

    vocabulary_size: int
    embedding_size: int
    hidden_sizes: tuple[int, ...]
    bidirectional: bool
    dropout_rates: tuple[float, ...]
    masked: bool
    optimizer: str = "adam"
    learning_rate: float = 1e-3
    cell: str = "lstm"
    batch_size: int = 512

    @property
    def directions(self) -> tuple[str, ...]:
        return ("forward", "backward") if self.bidirectional else ("forward",)

    @property
    def input_sizes(self) -> tuple[int, ...]:
        """The input sizes of the recurrent layers."""
        below = [size * len(self.directions) for size in self.hidden_sizes[:-1]]
        return (self.embedding_size, *below)

    @property
    def output_size(self) -> int:
        """The output size of the top layer's directions together."""
        return self.hidden_sizes[-1] * len(self.directions)

    def weight_names(self) -> list[str]:
        """The keys of `Weights`, in order."""
        layers = [
            f"encoder.layers.{number}.{direction}.{array}"
            for number in range(len(self.hidden_sizes))
            for direction in self.directions
            for array in ARRAYS[self.cell]
        ]
        return ["inputs.table", *layers, "head.kernel", "head.bias"]


class Peer:
    """One library's model, as a good user of that library writes it."""

    def __init__(self, training: Training, weights: Weights):
        raise NotImplementedError

    def logits(self, batch: Batch) -> np.ndarray:
        """The logit of every review; nothing is dropped."""
        raise NotImplementedError

    def train(self, batch: Batch) -> Any:
        """One update; returns the loss before it, which need not be computed yet."""
        raise NotImplementedError

    def epoch(self, batches: Sequence[Batch]) -> float:
        """One update per batch; returns the mean loss and thereby waits for all updates."""
        return float(np.mean([float(loss) for loss in [self.train(batch) for batch in batches]]))

    def weights(self) -> Weights:
        raise NotImplementedError


class Entry(NamedTuple):
    """A peer that can be chosen.

    Attributes:
        module: the module of its class.
        peer: the name of its class.
        settings: the settings that it takes part in.
        packages: those whose versions its figures depend on; the first is the one to install.
        environment: variables that its process starts with.
        loss_tolerance: how far, relatively, the loss after two updates may be from others'. The
            libraries add Adam's epsilon in two different places.
    """

    module: str
    peer: str
    settings: tuple[str, ...]
    packages: tuple[str, ...]
    environment: Mapping[str, str] = MappingProxyType({})
    loss_tolerance: float = 5e-4

    def load(self) -> type[Peer]:
        return getattr(importlib.import_module(f"benchmarks.{self.module}"), self.peer)

    def missing(self) -> list[str]:
        """Packages that are not installed."""
        return [name for name in self.packages if importlib.util.find_spec(name) is None]


# PyTorch's tuning guide advises an allocator that keeps large blocks. The C library's own, told to,
# is as good; by default it returns them after every use, which takes half of PyTorch's time. The
# other libraries gain nothing from it.
_TORCH_ENVIRONMENT = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**36),
    "MALLOC_TOP_PAD_": str(2**26),
}

PEERS = {
    "ours": Entry("ours", "Ours", ("padded", "exact", "job"), ("jax", "flax", "optax")),
    "keras-tensorflow": Entry(
        "keras_peer",
        "Keras",
        ("padded", "exact", "job"),
        ("tensorflow", "keras"),
        {"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "2"},
        # On TensorFlow, Keras' Adam squares an embedding's gradients before it adds up those
        # of a word that occurs more than once.
        loss_tolerance=0.1,
    ),
    "keras-jax": Entry(
        "keras_peer", "Keras", ("padded", "exact"), ("keras", "jax"), {"KERAS_BACKEND": "jax"}
    ),
    "torch-padded": Entry(
        "torch_peer", "Padded", ("padded", "exact"), ("torch",), _TORCH_ENVIRONMENT
    ),
    "torch-packed": Entry("torch_peer", "Packed", ("exact",), ("torch",), _TORCH_ENVIRONMENT),
    "flax-nnx": Entry("nnx_peer", "Nnx", ("padded", "exact"), ("flax", "jax", "optax")),
}
