"""The precision of matrix products.

By default, JAX multiplies float32 matrices in TF32 on a GPU and in bfloat16 on a TPU. Here a
product has the precision that is asked for, on every device. Only the products of `seqmodels`, and
of the cells that it runs, are affected.
"""

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import ParamSpec, TypeVar

import jax

_P = ParamSpec("_P")
_R = TypeVar("_R")

_OF_FLOAT32 = {"float32": "highest", "tensorfloat32": "tensorfloat32", "bfloat16": "highest"}

MATRIX_DTYPES = tuple(_OF_FLOAT32)
"""The dtypes of matrices in products.

*   `float32`: float32, on every device.
*   `tensorfloat32`: TF32, with 10 bits of mantissa, on NVIDIA GPUs; three bfloat16 products on
    TPUs; float32 on a CPU.
*   `bfloat16`: bfloat16, summed in float32.
"""


def products_in(matrix_dtype: str) -> AbstractContextManager[None]:
    """A context in which products of float32 arrays are traced for one of `MATRIX_DTYPES`.

    In `bfloat16`, the engine has converted the cells' matrices, and other products are float32.
    """
    return jax.default_matmul_precision(_OF_FLOAT32[matrix_dtype])


def current() -> str | None:
    """The precision of products where this is called, as in `jax.default_matmul_precision`.

    JAX traces a derivative later, and so possibly outside a context: what has one of its own asks
    when it is called.
    """
    return jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]


def in_float32(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Makes products of float32 arrays that a function traces float32 on every device."""

    @functools.wraps(function)
    def wrapped(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        with products_in("float32"):
            return function(*args, **kwargs)

    return wrapped
