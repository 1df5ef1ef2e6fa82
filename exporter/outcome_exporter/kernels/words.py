"""What numba cannot say: pointers, words that are not aligned, whole products, what comes next.

A pointer has no bounds, no reference count, and no negative places to be asked about: whoever takes
one answers for every place it reads. Little-endian machines only.
"""

from typing import TYPE_CHECKING, Any, cast

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

if TYPE_CHECKING:
    from collections.abc import Callable

    from outcome_exporter.model import Bytes, Table


def _lower_pointer(_context: Any, array: Any) -> Any:  # noqa: ANN401 — numba has no types for these
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:  # noqa: ANN401
        return context.make_array(signature.args[0])(context, builder, arguments[0]).data

    pointer: Any = types.CPointer
    return pointer(array.dtype)(array), generate


def _lower_row(_context: Any, table: Any, row: Any) -> Any:  # noqa: ANN401
    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:  # noqa: ANN401
        return builder.gep(arguments[0], [arguments[1]])

    return table.dtype(table, row), generate


def _lower_load_word(_context: Any, payload: Any, at: Any) -> Any:  # noqa: ANN401
    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:  # noqa: ANN401
        address = builder.gep(arguments[0], [arguments[1]])
        return builder.load(builder.bitcast(address, ir.IntType(64).as_pointer()), align=1)

    return types.uint64(payload, at), generate


def _lower_fold_product(_context: Any, one: Any, other: Any) -> Any:  # noqa: ANN401
    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:  # noqa: ANN401
        wide, word = ir.IntType(128), ir.IntType(64)
        product = builder.mul(*(builder.zext(argument, wide) for argument in arguments))
        high = builder.trunc(builder.lshr(product, wide(64)), word)
        return builder.xor(builder.trunc(product, word), high)

    return types.uint64(one, other), generate


def _lower_prefetch(_context: Any, array: Any, place: Any) -> Any:  # noqa: ANN401
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:  # noqa: ANN401
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        address = builder.bitcast(builder.gep(data, [arguments[1]]), ir.IntType(8).as_pointer())
        flags = [ir.IntType(32)(flag) for flag in (1, 3, 1)]  # to write to, for long, data
        kind = ir.FunctionType(ir.VoidType(), [address.type, *(flag.type for flag in flags)])
        fetch = builder.module.declare_intrinsic("llvm.prefetch", [address.type], kind)
        builder.call(fetch, [address, *flags])
        return context.get_dummy_value()

    return types.void(array, place), generate


# The first element of an array, which must outlive the pointer.
pointer = cast("Callable[[Any], Any]", intrinsic(_lower_pointer))
# A row of a structured array, by a pointer to the first.
row_at = cast("Callable[[Table, int], Any]", intrinsic(_lower_row))
# 8 bytes from a place on as a little-endian number, however they are aligned.
load_word = cast("Callable[[Bytes, int], int]", intrinsic(_lower_load_word))
# Of two 64-bit numbers the 128 bits of their product, one half laid over the other.
fold_product = cast("Callable[[np.uint64, np.uint64], np.uint64]", intrinsic(_lower_fold_product))
# Begins to bring a place of an array near, which may also lie outside: changes nothing but time.
prefetch = cast("Callable[[Any, int], None]", intrinsic(_lower_prefetch))

# To the type checker every integer is an int. Constants are made by these too: numba compiles a
# part once for each plain int that it is called with.
as_int = cast("Callable[[Any], int]", np.int64)
as_word = cast("Callable[[Any], int]", np.uint64)
