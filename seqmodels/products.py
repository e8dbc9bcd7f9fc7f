"""Products of a matrix with a vector, or with those of a batch, which is the last axis."""

from functools import partial

import jax
import jax.numpy as jnp

from seqmodels import precision

_CACHED = 2**17
"""Numbers of a matrix that a core's cache holds."""


def product(x_D: jax.Array, kernel_DxG: jax.Array) -> jax.Array:
    """`x @ kernel`, in the precision of the kernel; the result has that of x.

    Args:
        x_D: a vector, or `[D, B]`, a batch of vectors.
        kernel_DxG: a matrix.

    It keeps the batch as the last axis, and neither it nor its derivative reads the matrix with a
    stride. With `@` a cell computes the same, but up to twenty times slower on a CPU: the batch
    comes out first, and all pointwise work after it is strided too.
    """
    return _product(precision.current(), x_D, kernel_DxG)


def product_by_rows(kernel_GxD: jax.Array, x_D: jax.Array) -> jax.Array:
    """`kernel @ x`, like `product` with the transpose, of a matrix that lies in memory row by row.

    A CPU multiplies a large one by a single vector in three quarters of the time.
    """
    if _batch_size(x_D, kernel_GxD) == 1 and kernel_GxD.size > _CACHED:
        return jax.lax.dot(kernel_GxD, x_D, precision=precision.current())
    return product(x_D, kernel_GxD.T)


def product_once(x_DxB: jax.Array, kernel_DxG: jax.Array) -> jax.Array:
    """`product` with a matrix that is read once: a CPU needs no transposed copy of a large one.

    Its derivative may read the matrix with a stride.
    """
    if _batch_size(x_DxB, kernel_DxG) is None or kernel_DxG.size <= _CACHED:
        return product(x_DxB, kernel_DxG)
    return _batch_first(precision.current(), x_DxB, kernel_DxG)


def _batch_first(given, x_DxB, kernel_DxG):
    # The compiler would merge a transposition next to a product into one operation.
    x_BxD = jax.lax.optimization_barrier(x_DxB.T)
    return jax.lax.optimization_barrier(jnp.matmul(x_BxD, kernel_DxG, precision=given)).T


def _batch_size(x_D: jax.Array, kernel: jax.Array) -> int | None:
    """The size of a float32 batch on a CPU; None elsewhere, and if it is symbolic."""
    if jax.default_backend() != "cpu" or x_D.ndim != 2 or not isinstance(x_D.shape[1], int):
        return None
    return x_D.shape[1] if x_D.dtype == kernel.dtype == jnp.float32 else None


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _product(given, x_D, kernel_DxG):
    """`product`; JAX may trace its derivative where the default precision is another one."""
    batch_size = _batch_size(x_D, kernel_DxG)
    is_cached = kernel_DxG.size <= _CACHED
    if batch_size == 1 and not is_cached:  # Either way reads it once; this one makes no copy.
        return jnp.matmul(x_D.T, kernel_DxG, precision=given).T
    if batch_size is not None and 1 < batch_size < 8 and is_cached:
        # A CPU's vector units take eight numbers at once: those of a row of the result.
        return _batch_first(given, x_D, jax.lax.optimization_barrier(kernel_DxG))
    kernel_GxD = jax.lax.optimization_barrier(kernel_DxG.T)
    x_D, dtype = x_D.astype(kernel_DxG.dtype), x_D.dtype
    return jnp.einsum(
        "gd,d...->g...", kernel_GxD, x_D, precision=given, preferred_element_type=dtype
    )


@_product.defjvp
def _product_jvp(given, primals, tangents):
    (x_D, kernel_DxG), (d_x_D, d_kernel_DxG) = primals, tangents

    # JAX transposes this function; the result reads the matrix contiguously.
    def of(x_D, kernel_DxG):
        x_D, dtype = x_D.astype(kernel_DxG.dtype), x_D.dtype
        return jnp.einsum(
            "dg,d...->g...", kernel_DxG, x_D, precision=given, preferred_element_type=dtype
        )

    return _product(given, x_D, kernel_DxG), of(d_x_D, kernel_DxG) + of(x_D, d_kernel_DxG)
