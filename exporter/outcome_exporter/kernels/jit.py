"""How kernels are compiled: once, kept on disk, and without the GIL."""

from collections.abc import Callable
from typing import TypeVar, cast

import numba

Function = TypeVar("Function", bound=Callable[..., object])


def kernel(function: Function) -> Function:
    """Compiles a plain loop over arrays; typed as the function that it compiles."""
    return cast("Function", numba.njit(cache=True, nogil=True)(function))
