"""How kernels are compiled: without the GIL, and kept on disk.

A kernel borrows the arrays that it is given. Compiled without numba's runtime it neither counts
references to them, an atomic operation each of which there were several a span (a third of the
time of assembly), nor can it make arrays of its own. One that must is `allocating`.

Most kernels are called by others only. What Python needs to call one, code that takes every array
out of its object, is as much to compile as the kernel itself; so it is compiled where Python calls,
and only there. A number that a kernel hands to another is a variable to it: numba would compile the
other once for every constant that it is called with. Both together took a quarter off a first start
(92 to 70 CPU seconds), and the compiled code is as fast.
"""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
from numba import types
from numba.extending import models, register_model

Function = TypeVar("Function", bound=Callable[..., object])

_njit: Any = numba.njit  # its types know nothing of `_nrt`
_variable: Any = types.unliteral


def kernel(function: Function) -> Function:
    """Compiles a plain loop over arrays; typed as the function that it compiles."""
    return cast("Function", Kernel(function, _nrt=False))


def inlined(function: Function) -> Function:
    """Compiles a part of kernels into each place that calls it.

    A call hands over seven words for every array: more than a short part has to do.
    """
    return cast("Function", Kernel(function, _nrt=False, forceinline=True))


def allocating(function: Function) -> Function:
    """Compiles a kernel that makes arrays, for itself or to return them."""
    return cast("Function", Kernel(function, _nrt=True))


class Kernel:
    """A function, compiled when it is called: for Python, and for kernels."""

    def __init__(self, function: Callable[..., object], **options: bool) -> None:
        self.for_python = _njit(cache=True, nogil=True, **options)(function)
        # Kept on disk within the code of those that call it.
        bare = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
        self._for_kernels = _njit(**bare, **options)(function)
        self._numba_type_ = _CalledByKernels(self._for_kernels)  # numba asks values for their type

    def __call__(self, *arguments: object) -> object:
        return self.for_python(*arguments)


class _CalledByKernels(types.Dispatcher):
    """The type of a kernel to those that call it."""

    def get_call_type(self, context: Any, args: Any, kws: Any) -> Any:  # noqa: ANN401
        return super().get_call_type(context, [_variable(argument) for argument in args], kws)


register_model(_CalledByKernels)(models.OpaqueModel)
