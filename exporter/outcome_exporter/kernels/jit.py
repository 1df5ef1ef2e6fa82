"""How kernels are compiled: once, kept on disk, and without the GIL.

A kernel borrows the arrays that it is given. Compiled without numba's runtime it neither counts
references to them, an atomic operation each of which there were several a span (a third of the
time of assembly), nor can it make arrays of its own. One that must is `allocating`.
"""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

Function = TypeVar("Function", bound=Callable[..., object])

_njit: Any = numba.njit  # its types know nothing of `_nrt`


def kernel(function: Function) -> Function:
    """Compiles a plain loop over arrays; typed as the function that it compiles."""
    return cast("Function", _njit(cache=True, nogil=True, _nrt=False)(function))


def inlined(function: Function) -> Function:
    """Compiles a part of kernels into each place that calls it.

    A call hands over seven words for every array: more than a short part has to do.
    """
    return cast("Function", _njit(cache=True, nogil=True, _nrt=False, forceinline=True)(function))


def allocating(function: Function) -> Function:
    """Compiles a kernel that makes arrays, for itself or to return them."""
    return cast("Function", _njit(cache=True, nogil=True, _nrt=True)(function))
