"""One arithmetic, whatever JAX's environment variables and switches say: they would change random numbers and types
without a word, so that the same image got another embedding."""

import contextlib
from collections.abc import Iterator

import jax


@contextlib.contextmanager
def reproducible() -> Iterator[None]:
    """As a `with` or a decorator: what is traced within it draws the same numbers, of the same types, on any machine.

    It holds for this thread alone. Left as they are: switches of speed and of the precision of products on a GPU.
    """
    with (
        jax.enable_x64(False),
        jax.default_prng_impl("threefry2x32"),
        jax.threefry_partitionable(True),
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
    ):
        yield
