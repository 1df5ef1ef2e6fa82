"""What OTLP's messages have in common: times, and attributes, of which the wanted are kept.

What is decided here, beyond the format:
- A key that comes twice has two rows, in their order. A value that is an array, a map, an index
  into a profile's dictionary, or not there has none. Of a value's alternatives the last counts.
- Times are clamped to int64: a time after the year 2262 is one that cannot be anyway.

Names are compared by words: a key's first 8 bytes and its last are its place in a hash table and,
with what is between them, its identity. KeyValue → AnyValue is written out by hand, since most
bytes of a request are attributes.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from outcome_exporter.kernels.jit import inlined
from outcome_exporter.kernels.otlp_schema import Message
from outcome_exporter.kernels.protobuf import (
    DELIMITED,
    FIXED64,
    NO_ROOM,
    TRUNCATED,
    VARINT,
    Source,
    failure,
    read_content,
    read_tag,
    read_text,
    read_varint,
    short_word,
    skip_field,
)
from outcome_exporter.kernels.words import as_int, as_word, load_word, pointer, row_at
from outcome_exporter.model import AttributeType, Bytes, Table

# Tags are field numbers and wire types: number << 3 | type. Of an attribute:
_KEY: Final = 1 << 3 | DELIMITED
_VALUE: Final = 2 << 3 | DELIMITED
# Of a value:
_STRING: Final = 1 << 3 | DELIMITED
_BOOL: Final = 2 << 3 | VARINT
_INT: Final = 3 << 3 | VARINT
_DOUBLE: Final = 4 << 3 | FIXED64
_ARRAY: Final = 5 << 3 | DELIMITED
_MAP: Final = 6 << 3 | DELIMITED
_BYTES: Final = 7 << 3 | DELIMITED
_STRING_INDEX: Final = 8 << 3 | VARINT

_IN_KEY_VALUE: Final = as_int(Message.KEY_VALUE)
_IN_ANY_VALUE: Final = as_int(Message.ANY_VALUE)

_NO_TYPE: Final = as_int(0)
_TYPE_STRING: Final = as_int(AttributeType.STRING)
_TYPE_BOOL: Final = as_int(AttributeType.BOOL)
_TYPE_INT: Final = as_int(AttributeType.INT)
_TYPE_DOUBLE: Final = as_int(AttributeType.DOUBLE)
_TYPE_BYTES: Final = as_int(AttributeType.BYTES)
_TIME_MAX: Final = 2**63 - 1

# Wanted keys -------------------------------------------------------------------------------------

_SLOT: Final = np.dtype(
    [
        ("head", np.uint64),  # the key's first 8 bytes, and its last; all of it where it is shorter
        ("tail", np.uint64),
        ("len", np.uint32),
        ("at", np.uint32),  # in `WantedKeys.text`
        ("key", np.int32),  # index into the names; -1: free
    ],
    align=True,
)
_NAMES_MAX: Final = 2**16
_SHORTEST_ROW: Final = 6
"""Bytes of an attribute beside its key, in the shortest encoding: the tags and lengths of itself
and its value, and a tag and a byte within the value. An empty key may be left out."""


class WantedKeys(NamedTuple):
    """A hash table of attribute names with open addressing: arrays only."""

    slots: Table
    """At least four times as many as names, a power of two."""
    text: Bytes
    """The names in UTF-8, one after the other."""
    attribute_bytes_min: int
    """Bytes that an attribute of such a name takes in a request, at least."""


def wanted_keys(names: Sequence[str]) -> WantedKeys:
    """The table by which `read_attribute` tells which attributes to keep.

    Args:
        names: Distinct attribute names, at most 65,536. `ATTRIBUTE.key` is the index into them.
    """
    assert len(set(names)) == len(names) <= _NAMES_MAX, "names are distinct, at most 65,536"
    encoded = [name.encode() for name in names]
    slots = np.zeros(max(4, 1 << (4 * len(names) - 1).bit_length()), _SLOT)
    slots["key"] = -1
    at = 0
    for key, name in enumerate(encoded):
        head = int.from_bytes(name[:8], "little")
        tail = int.from_bytes(name[-8:], "little")
        slot = _first_slot_of(head, tail, len(name)) % len(slots)
        while slots["key"][slot] >= 0:
            slot = (slot + 1) % len(slots)
        slots[slot] = (head, tail, len(name), at, key)
        at += len(name)
    return WantedKeys(
        slots=slots,
        text=np.frombuffer(b"".join(encoded), np.uint8),
        attribute_bytes_min=_SHORTEST_ROW + min(map(len, encoded), default=0),
    )


def _first_slot_of(head: int, tail: int, length: int) -> int:
    return int(_hash(as_word(head), as_word(tail), as_word(length)))


# Reading -----------------------------------------------------------------------------------------


class Reader(NamedTuple):
    """Pointers to what the parts that read attributes need."""

    source: Source
    slots: Table
    slots_mask: int
    text: Bytes
    attributes: Table
    attributes_max: int


@inlined
def reader_of(
    payload: Bytes,
    schema: npt.NDArray[np.int8],
    stack: npt.NDArray[np.int64],
    slots: Table,
    text: Bytes,
    attributes: Table,
) -> Reader:
    """What reads from these arrays, which must outlive it, and writes to the last."""
    return Reader(
        Source(pointer(payload), pointer(schema), pointer(stack)),
        pointer(slots),
        len(slots) - 1,
        pointer(text),
        pointer(attributes),
        len(attributes),
    )


@inlined
def _hash(head: int, tail: int, length: int) -> int:
    mixed = head ^ tail * as_word(0x9E3779B97F4A7C15) ^ length
    return mixed * as_word(0xD6E8FEB86659FD93) >> as_word(40)


@inlined
def _find_key(reader: Reader, at: int, end: int) -> int:
    """Index of a key among the wanted names, or -1."""
    payload = reader.source.payload
    length = end - at
    if length >= 8:
        head = load_word(payload, at)
        tail = load_word(payload, end - 8)
    else:
        head = short_word(payload, at, end)
        tail = head
    place = as_int(_hash(head, tail, as_word(length))) & reader.slots_mask
    while True:
        slot = row_at(reader.slots, place)
        if slot.key < 0:
            return as_int(-1)
        if slot.head == head and slot.tail == tail and as_int(slot.len) == length:
            i = as_int(8)
            while i < length - 8 and load_word(payload, at + i) == load_word(
                reader.text, as_int(slot.at) + i
            ):
                i += 8
            if i >= length - 8:
                return as_int(slot.key)
        place = (place + 1) & reader.slots_mask


@inlined
def read_attribute(reader: Reader, at: int, end: int, depth: int, row: int) -> tuple[int, int]:
    """Writes an attribute to that row if it is wanted.

    Returns:
        The place behind the message, and the next free row.
    """
    payload = reader.source.payload
    key_at = key_end = value_at = value_end = at
    kind = _NO_TYPE
    number = as_int(0)
    while at < end:
        tag, at = read_tag(payload, at, end)
        if at < 0:
            return at, row
        if tag == _KEY:
            key_at, key_end = read_text(payload, at, end)
            at = key_end
        elif tag == _VALUE:
            at, stop = read_content(payload, at, end)
            if stop < 0:
                return stop, row
            while at < stop:
                tag, at = read_tag(payload, at, stop)
                if at < 0:
                    return at, row
                if tag == _STRING:
                    value_at, value_end = read_text(payload, at, stop)
                    at = value_end
                    kind = _TYPE_STRING
                elif tag == _INT:
                    number, at = read_varint(payload, at, stop)
                    kind = _TYPE_INT
                elif tag == _BOOL:
                    number, at = read_varint(payload, at, stop)
                    number = as_int(number != 0)
                    kind = _TYPE_BOOL
                elif tag == _DOUBLE:
                    # Here and in `read_time` by hand: with a part that both call, however it is
                    # written, every span takes a twentieth to a tenth longer.
                    if at + 8 > stop:
                        return failure(TRUNCATED, at), row
                    number = as_int(load_word(payload, at))
                    at += 8
                    kind = _TYPE_DOUBLE
                elif tag == _BYTES:
                    value_at, value_end = read_content(payload, at, stop)
                    at = value_end
                    kind = _TYPE_BYTES
                else:
                    at = skip_field(reader.source, at, stop, tag, _IN_ANY_VALUE, depth + 1)
                    if tag in (_ARRAY, _MAP, _STRING_INDEX):
                        kind = _NO_TYPE
                if at < 0:
                    return at, row
        else:
            at = skip_field(reader.source, at, end, tag, _IN_KEY_VALUE, depth)
        if at < 0:
            return at, row
    if kind == _NO_TYPE:
        return at, row
    key = _find_key(reader, key_at, key_end)
    if key < 0:
        return at, row
    if row == reader.attributes_max:
        return NO_ROOM, row
    attribute = row_at(reader.attributes, row)
    attribute.key = key
    attribute.type = kind
    if kind in (_TYPE_STRING, _TYPE_BYTES):
        attribute.number = 0
        attribute.at = value_at
        attribute.len = value_end - value_at
    else:
        attribute.number = number
        attribute.at = 0
        attribute.len = 0
    return at, row + 1


@inlined
def read_time(payload: Bytes, at: int, end: int) -> tuple[int, int]:
    """Nanoseconds, at most what int64 holds, and the place behind them."""
    if at + 8 > end:
        return 0, failure(TRUNCATED, at)
    nanoseconds = as_int(load_word(payload, at))
    return nanoseconds if nanoseconds >= 0 else _TIME_MAX, at + 8
