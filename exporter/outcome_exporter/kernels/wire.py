"""Decodes trace requests from protobuf's wire format straight into columns.

The one wire parser of the project, because throughput is what the product exists for: a span costs
no Python object. In: the bytes of an `ExportTraceServiceRequest` and the names of the wanted
attributes. Out: a `SpanBatch`, whose texts are places in those bytes. Stateless: many threads may
decode at once, and the GIL is free meanwhile. Linear in the bytes.

What is accepted is exactly what the official protobuf library accepts (its C core, upb), which is
the oracle of the tests:
- The whole request is checked, also what is not read: every bound, and the UTF-8 of every text.
- Unknown fields are skipped, groups included. A known field of another wire type is an unknown one.
- Messages and groups may be nested 100 deep below the request. Tags and lengths have up to 5
  bytes, other varints up to 10, whose surplus bits are dropped. Field number 0 is an error, but
  not within a group, where the library does not look.
- A scalar that comes twice counts as it comes last; a message that comes twice is merged, which
  for a value means that the last alternative counts.
A malformed request is refused as a whole, with the place of the first problem found.

What is decided here, beyond the format:
- A span whose trace id has not 16 bytes, whose span id has not 8, or either of which is zero, is
  left out and counted. A parent id that has not 8 bytes counts as none: the span is whole without.
- Times are clamped to int64: a time after the year 2262 is one that cannot be anyway.
- A kind or status code that the schema does not know counts as unspecified or unset.
- A key that comes twice has two rows, in their order. A value that is an array, a map, an index
  into a profile's dictionary, or not there has none.
- Of the events of spans only evaluations of feature flags are read: each different one of a
  resource once, with its last time. See `FLAGS_MAX` and what stands beside it.
- A request of 4 GiB or more is refused, because places are 32 bits.

How: one pass, into room for as many rows as a request of that size has as a rule; where it has
more, another one, with room for the most that its bytes can hold. (Rejected: to count the spans
first, which touches every one of them twice.) Span → KeyValue → AnyValue is written out by hand;
whatever is rare goes through `_skip_field`, which walks any message by `SCHEMA` without recursion.
Bytes are read in words of 8 where that stays within the payload.

Known limit: little-endian machines only.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, cast

import numpy as np
import numpy.typing as npt
from numba import njit

from outcome_exporter.buffers import Buffers
from outcome_exporter.errors import DecodeError
from outcome_exporter.kernels.hashing import combine, hash_bytes, same_bytes
from outcome_exporter.kernels.otlp_schema import FIELD_NUMBERS, OPAQUE, SCHEMA, TEXT, Message
from outcome_exporter.kernels.words import load_word as _load_word
from outcome_exporter.kernels.words import pointer as _pointer
from outcome_exporter.kernels.words import row as _row
from outcome_exporter.model import (
    ATTRIBUTE,
    FLAG,
    FLAG_EVENT,
    FLAG_NAMES,
    RESOURCE,
    SPAN,
    AttributeType,
    Bytes,
    Row,
    SpanBatch,
    Table,
)

# To the type checker, every integer of the compiled parts is an int. Constants are made by these
# too: numba compiles a part once for each plain int that it is called with.
_int = cast("Callable[[Any], int]", np.int64)
_word = cast("Callable[[Any], int]", np.uint64)

# Problems --------------------------------------------------------------------------------------
# A place is an int64: from 0 a position in the payload, below 0 a problem and where it is.

_PROBLEMS: Final = (
    "a field reaches beyond the end of its message",
    "a varint has more than 10 bytes",
    "a tag is above 32 bits",
    "a length is above 31 bits",
    "a field has the number 0",
    "a field has a wire type that does not exist",
    "a group ends that did not begin",
    "a group has no end",
    "a text is not UTF-8",
    "messages are nested more than 100 deep",
)
_TRUNCATED: Final = _int(0)
_LONG_VARINT: Final = _int(1)
_LONG_TAG: Final = _int(2)
_LONG_LENGTH: Final = _int(3)
_FIELD_ZERO: Final = _int(4)
_WIRE_TYPE: Final = _int(5)
_GROUP_END: Final = _int(6)
_GROUP_OPEN: Final = _int(7)
_NOT_UTF8: Final = _int(8)
_TOO_DEEP: Final = _int(9)
_NO_ROOM: Final = _int(-16)
"""No problem of the payload: there are more attributes than there is room for."""

# The format --------------------------------------------------------------------------------------

_DEPTH_MAX: Final = _int(100)
_VARINT_BYTES_MAX: Final = _int(10)
_TAG_BYTES_MAX: Final = _int(5)
_LENGTH_BYTES_MAX: Final = _int(5)
_KIND_MAX: Final = _int(5)
_STATUS_CODE_MAX: Final = _int(2)
_LENGTH_MAX: Final = 2**31 - 2
_PAYLOAD_MAX: Final = 2**32 - 1
_TIME_MAX: Final = 2**63 - 1

_VARINT: Final = 0
_FIXED64: Final = 1
_DELIMITED: Final = 2
_GROUP: Final = 3
_END_GROUP: Final = 4
_FIXED32: Final = 5

# Tags are field numbers and wire types: number << 3 | type.
_REQUEST_RESOURCE_SPANS: Final = 1 << 3 | _DELIMITED
_RESOURCE_SPANS_RESOURCE: Final = 1 << 3 | _DELIMITED
_RESOURCE_SPANS_SCOPE_SPANS: Final = 2 << 3 | _DELIMITED
_RESOURCE_ATTRIBUTE: Final = 1 << 3 | _DELIMITED
_SCOPE_SPANS_SPAN: Final = 2 << 3 | _DELIMITED
_SPAN_TRACE_ID: Final = 1 << 3 | _DELIMITED
_SPAN_ID: Final = 2 << 3 | _DELIMITED
_SPAN_TRACE_STATE: Final = 3 << 3 | _DELIMITED
_SPAN_PARENT_ID: Final = 4 << 3 | _DELIMITED
_SPAN_NAME: Final = 5 << 3 | _DELIMITED
_SPAN_KIND: Final = 6 << 3 | _VARINT
_SPAN_START: Final = 7 << 3 | _FIXED64
_SPAN_END: Final = 8 << 3 | _FIXED64
_SPAN_ATTRIBUTE: Final = 9 << 3 | _DELIMITED
_SPAN_EVENT: Final = 11 << 3 | _DELIMITED
_SPAN_STATUS: Final = 15 << 3 | _DELIMITED
_SPAN_FLAGS: Final = 16 << 3 | _FIXED32
_EVENT_TIME: Final = 1 << 3 | _FIXED64
_EVENT_NAME: Final = 2 << 3 | _DELIMITED
_EVENT_ATTRIBUTE: Final = 3 << 3 | _DELIMITED
_STATUS_CODE: Final = 3 << 3 | _VARINT
_KEY: Final = 1 << 3 | _DELIMITED
_VALUE: Final = 2 << 3 | _DELIMITED
_STRING: Final = 1 << 3 | _DELIMITED
_BOOL: Final = 2 << 3 | _VARINT
_INT: Final = 3 << 3 | _VARINT
_DOUBLE: Final = 4 << 3 | _FIXED64
_ARRAY: Final = 5 << 3 | _DELIMITED
_MAP: Final = 6 << 3 | _DELIMITED
_BYTES: Final = 7 << 3 | _DELIMITED
_STRING_INDEX: Final = 8 << 3 | _VARINT

# Messages as plain numbers, so that the compiled functions take one type.
_IN_REQUEST: Final = _int(Message.REQUEST)
_IN_RESOURCE_SPANS: Final = _int(Message.RESOURCE_SPANS)
_IN_RESOURCE: Final = _int(Message.RESOURCE)
_IN_SCOPE_SPANS: Final = _int(Message.SCOPE_SPANS)
_IN_SPAN: Final = _int(Message.SPAN)
_IN_EVENT: Final = _int(Message.EVENT)
_IN_STATUS: Final = _int(Message.STATUS)
_IN_KEY_VALUE: Final = _int(Message.KEY_VALUE)
_IN_ANY_VALUE: Final = _int(Message.ANY_VALUE)
_IN_UNKNOWN: Final = _int(-1)
"""Within a message whose texts and submessages are not to be looked at."""
_IN_GROUP: Final = _int(-2)

_DEPTH_OF_REQUEST: Final = _int(0)
_DEPTH_OF_RESOURCE_SPANS: Final = _int(1)
_DEPTH_OF_RESOURCE: Final = _int(2)
_DEPTH_OF_SCOPE_SPANS: Final = _int(2)
_DEPTH_OF_SPAN: Final = _int(3)
_DEPTH_OF_EVENT: Final = _int(4)
_DEPTH_OF_STATUS: Final = _int(4)

_NO_TYPE: Final = _int(0)
_TYPE_STRING: Final = _int(AttributeType.STRING)
_TYPE_BOOL: Final = _int(AttributeType.BOOL)
_TYPE_INT: Final = _int(AttributeType.INT)
_TYPE_DOUBLE: Final = _int(AttributeType.DOUBLE)
_TYPE_BYTES: Final = _int(AttributeType.BYTES)

# What `_skip_field` notes, in the stack behind its levels.
EVENTS_MAX: Final = 1 << 14
"""Events of spans, the first of a request, in which flags are looked for."""
_EVENT_BYTES_MIN: Final = 2
"""Of an empty one: a tag and a length."""
_NOTED: Final = 3 * _DEPTH_MAX
_NOTES_MAX: Final = _NOTED + 1
_NOTES: Final = _NOTED + 2
"""From here on the place of each event."""

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
_SPAN_BYTES_MIN: Final = 28
"""Of a span with both ids: 16 and 8, each behind a tag and a length."""
_RESOURCE_BYTES_MIN: Final = 2
"""Of an empty one: a tag and a length."""
_NAMES_MAX: Final = 2**16
_SHORTEST_ROW: Final = 6
"""Bytes of an attribute beside its key, in the shortest encoding: the tags and lengths of itself
and its value, and a tag and a byte within the value. An empty key may be left out."""
_USUAL_BYTES: Final = (80, 80, 32)
"""Bytes of a request for each span, resource and wanted attribute in it, at least, as a rule."""


class WantedKeys(NamedTuple):
    """A hash table of attribute names with open addressing: arrays only."""

    slots: Table
    """At least four times as many as names, a power of two."""
    text: Bytes
    """The names in UTF-8, one after the other."""
    key_bytes_min: int
    """Length of the shortest name."""


def wanted_keys(names: Sequence[str]) -> WantedKeys:
    """The table by which `decode_spans` tells which attributes to read.

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
        key_bytes_min=min(map(len, encoded), default=0),
    )


def _first_slot_of(head: int, tail: int, length: int) -> int:
    """`_hash` for one name, in Python's own integers."""
    with np.errstate(over="ignore"):
        return int(_hash.py_func(_word(head), _word(tail), _word(length)))


# Decoding ----------------------------------------------------------------------------------------


def decode_spans(
    payload: bytes | Bytes, wanted: WantedKeys, buffers: Buffers | None = None
) -> SpanBatch:
    """Decodes an `ExportTraceServiceRequest`.

    Args:
        payload: The request in protobuf's wire format, decompressed, below 4 GiB. Shape (bytes,).
        wanted: Attributes to read, of spans and of resources.
        buffers: Where the columns are put; otherwise into memory of their own.

    Returns:
        The spans in the order of the request. The payload of the batch is the one given.

    Raises:
        DecodeError: The bytes are not such a request; says what is wrong and where.
    """
    data = np.frombuffer(payload, np.uint8)
    data.flags.writeable = False
    if data.size > _PAYLOAD_MAX:
        raise DecodeError(f"trace request has {data.size} bytes; send less than 4 GiB at once")
    notes_max = min(data.size // _EVENT_BYTES_MIN, EVENTS_MAX)
    stack = np.empty(_NOTES + notes_max, np.int64)
    stack[_NOTES_MAX] = notes_max
    buffers = buffers or Buffers(0)
    place = _NO_ROOM
    tables: list[Table] = []
    for bytes_a_row in (_USUAL_BYTES, _fewest_bytes(wanted)):
        tables = [
            buffers.take((data.size // size + 1) * dtype.itemsize).view(dtype)
            for dtype, size in zip((SPAN, RESOURCE, ATTRIBUTE), bytes_a_row, strict=True)
        ]
        stack[_NOTED] = 0
        place, *counts, rejected = _fill(data, wanted.slots, wanted.text, SCHEMA, stack, *tables)
        if place != _NO_ROOM:
            break
    if place < 0:
        raise _error_at(place)
    spans, resources, attributes = (table[:n] for table, n in zip(tables, counts, strict=True))
    batch = SpanBatch(data, spans, resources, attributes, rejected)
    return _with_flags(batch, stack) if stack[_NOTED] else batch


def _with_flags(batch: SpanBatch, stack: npt.NDArray[np.int64]) -> SpanBatch:
    flags = np.empty(FLAGS_MAX, FLAG)
    attributes = np.empty(_FLAG_ROOM, ATTRIBUTE)
    count = _read_flags(batch.payload, SCHEMA, stack, _FLAG_SLOTS, _FLAG_TEXT, flags, attributes)
    if count == 0:
        return batch
    # Copies, since what is kept for the pipeline is counted by its bytes.
    return batch._replace(
        flags=flags[:count].copy(), flag_attributes=attributes[: count * FLAG_ROWS_MAX].copy()
    )


def _fewest_bytes(wanted: WantedKeys) -> tuple[int, int, int]:
    """Bytes that a span, a resource and a wanted attribute have at least."""
    return _SPAN_BYTES_MIN, _RESOURCE_BYTES_MIN, _SHORTEST_ROW + wanted.key_bytes_min


def _error_at(place: int) -> DecodeError:
    offset, problem = divmod(-place - 1, 16)
    return DecodeError(f"no OTLP trace request: {_PROBLEMS[problem]}", offset=offset)


# Reading bytes -----------------------------------------------------------------------------------
# The compiled parts take pointers instead of arrays, whose reference counts would cost more than
# the decoding. No part reads at or beyond `end`, which is never beyond the payload. To the type
# checker a pointer is the array, and every integer an int.

_kernel = njit(nogil=True, cache=True)
_part = njit(nogil=True)
_inline = njit(nogil=True, forceinline=True)

_HIGH_BITS: Final = _word(0x8080808080808080)
_EVERY_SECOND_BYTE: Final = _word(0x00FF00FF00FF00FF)
_EVERY_SECOND_PAIR: Final = _word(0x0000FFFF0000FFFF)


class _Source(NamedTuple):
    """Pointers to what is read, and how."""

    payload: Bytes
    schema: npt.NDArray[np.int8]
    stack: npt.NDArray[np.int64]
    """Room for `_skip_field`: three numbers for each level of nesting; then what it notes."""


class _Work(NamedTuple):
    """Pointers to what the parts that read attributes need."""

    source: _Source
    slots: Table
    slots_mask: int
    text: Bytes
    attributes: Table
    attributes_max: int


@_inline
def _byte(payload: Bytes, at: int) -> int:
    return _int(payload[at])


@_inline
def _short_word(payload: Bytes, at: int, end: int) -> int:
    """Fewer than 8 bytes, as `_load_word` would read them if zeros followed."""
    length = end - at
    if length == 0:
        return _word(0)
    if end >= 8:
        return _load_word(payload, end - 8) >> _word(64 - 8 * length)
    word = _word(0)
    while end > at:
        end -= 1
        word = word << _word(8) | _word(payload[end])
    return word


@_inline
def _failure(problem: int, at: int) -> int:
    return -(at * 16 + problem) - 1


@_part
def _long_varint(
    payload: Bytes, at: int, end: int, bytes_max: int, problem: int
) -> tuple[int, int]:
    value = _int(0)
    for i in range(bytes_max):
        if at + i >= end:
            return value, _failure(_TRUNCATED, at)
        byte = _byte(payload, at + i)
        value |= (byte & 0x7F) << (7 * i)
        if byte < 0x80:
            return value, at + i + 1
    return value, _failure(problem, at)


@_inline
def _varint(payload: Bytes, at: int, end: int) -> tuple[int, int]:
    """The value, all 64 bits of it, and the place behind it."""
    if at < end:
        byte = _byte(payload, at)
        if byte < 0x80:
            return byte, at + 1
    return _long_varint(payload, at, end, _VARINT_BYTES_MAX, _LONG_VARINT)


@_inline
def _tag(payload: Bytes, at: int, end: int) -> tuple[int, int]:
    """The tag, and the place behind it. Its number may be 0."""
    if at < end:
        byte = _byte(payload, at)
        if byte < 0x80:
            return byte, at + 1
    tag, behind = _long_varint(payload, at, end, _TAG_BYTES_MAX, _LONG_TAG)
    if behind >= 0 and tag > 0xFFFFFFFF:
        behind = _failure(_LONG_TAG, at)
    return tag, behind


@_inline
def _content(payload: Bytes, at: int, end: int) -> tuple[int, int]:
    """Where a length-delimited field's content begins, and where it ends: the place behind it."""
    if at < end:
        length = _byte(payload, at)
        if length < 0x80:
            if at + 1 + length <= end:
                return at + 1, at + 1 + length
            return at, _failure(_TRUNCATED, at)
    return _long_content(payload, at, end)


@_part
def _long_content(payload: Bytes, at: int, end: int) -> tuple[int, int]:
    length, start = _long_varint(payload, at, end, _LENGTH_BYTES_MAX, _LONG_LENGTH)
    if start < 0:
        return at, start
    if length > _LENGTH_MAX:
        return at, _failure(_LONG_LENGTH, at)
    if start + length > end:
        return at, _failure(_TRUNCATED, at)
    return start, start + length


# Texts -------------------------------------------------------------------------------------------


@_inline
def _text(payload: Bytes, at: int, end: int) -> tuple[int, int]:
    """As `_content`, of a field that must be UTF-8."""
    start, stop = _content(payload, at, end)
    if stop >= 0:
        stop = _check_text(payload, start, stop)
    return start, stop


@_inline
def _check_text(payload: Bytes, at: int, end: int) -> int:
    """`end` where the bytes from `at` on are UTF-8, else the failure."""
    if end - at < 8:
        if _short_word(payload, at, end) & _HIGH_BITS == 0:
            return end
        return _check_utf8(payload, at, end)
    place = at
    while place < end - 8:
        if _load_word(payload, place) & _HIGH_BITS != 0:
            return _check_utf8(payload, place, end)
        place += 8
    if _load_word(payload, end - 8) & _HIGH_BITS == 0:
        return end
    return _check_utf8(payload, place, end)


@_part
def _check_utf8(payload: Bytes, at: int, end: int) -> int:
    """As `_check_text`, byte by byte: no surrogates, nothing overlong, at most U+10FFFF."""
    while at < end:
        byte = _byte(payload, at)
        if byte < 0x80:
            at += 1
            continue
        # Only the second byte has narrower bounds than 80..BF, which depend on the first.
        low, high = 0x80, 0xBF
        if 0xC2 <= byte <= 0xDF:
            length = 2
        elif 0xE0 <= byte <= 0xEF:
            length = 3
            if byte == 0xE0:
                low = 0xA0
            elif byte == 0xED:
                high = 0x9F
        elif 0xF0 <= byte <= 0xF4:
            length = 4
            if byte == 0xF0:
                low = 0x90
            elif byte == 0xF4:
                high = 0x8F
        else:
            return _failure(_NOT_UTF8, at)
        if at + length > end or not low <= _byte(payload, at + 1) <= high:
            return _failure(_NOT_UTF8, at)
        for i in range(2, length):
            if _byte(payload, at + i) & 0xC0 != 0x80:
                return _failure(_NOT_UTF8, at)
        at += length
    return end


# What is not read --------------------------------------------------------------------------------


@_part
def _skip_field(source: _Source, at: int, end: int, tag: int, message: int, depth: int) -> int:
    """Checks a field, with all messages and groups within, and returns the place behind it.

    Events of spans are noted, for `_read_flags`: here and not in `_read_span`, since one branch
    more there makes every span a tenth slower.

    Args:
        source: The payload, the schema and the stack.
        at: Behind the field's tag.
        end: Of the message that the field is in.
        tag: The field's.
        message: Kind of that message, a row of the schema, or `_IN_UNKNOWN`.
        depth: How deep that message is nested in the request.
    """
    payload, stack = source.payload, source.stack
    if tag == _SPAN_EVENT and message == _IN_SPAN and stack[_NOTED] < stack[_NOTES_MAX]:
        stack[_NOTES + stack[_NOTED]] = at
        stack[_NOTED] += 1
    height = 0
    group = 0
    while True:
        number = tag >> 3
        wire_type = tag & 7
        if number == 0 and message != _IN_GROUP:
            return _failure(_FIELD_ZERO, at)
        if wire_type == _DELIMITED:
            start, stop = _content(payload, at, end)
            content = OPAQUE
            if message >= 0 and number < FIELD_NUMBERS:
                content = _int(source.schema[message * FIELD_NUMBERS + number])
            if stop >= 0 and content == TEXT:
                at = _check_text(payload, start, stop)
            elif stop >= 0 and content != OPAQUE:
                if depth + height >= _DEPTH_MAX:
                    return _failure(_TOO_DEEP, at)
                stack[3 * height] = end
                stack[3 * height + 1] = message
                stack[3 * height + 2] = group
                height += 1
                at, end, message = start, stop, content
            else:
                at = stop
        elif wire_type == _VARINT:
            _, at = _varint(payload, at, end)
        elif wire_type == _FIXED64:
            at = at + 8 if at + 8 <= end else _failure(_TRUNCATED, at)
        elif wire_type == _FIXED32:
            at = at + 4 if at + 4 <= end else _failure(_TRUNCATED, at)
        elif wire_type == _GROUP:
            if depth + height >= _DEPTH_MAX:
                return _failure(_TOO_DEEP, at)
            stack[3 * height] = end
            stack[3 * height + 1] = message
            stack[3 * height + 2] = group
            height += 1
            message, group = _IN_GROUP, number
        elif wire_type == _END_GROUP:
            if message != _IN_GROUP or number != group:
                return _failure(_GROUP_END, at)
            height -= 1
            end = stack[3 * height]
            message = stack[3 * height + 1]
            group = stack[3 * height + 2]
        else:
            return _failure(_WIRE_TYPE, at)
        if at < 0:
            return at
        while height > 0 and at == end and message != _IN_GROUP:
            height -= 1
            end = stack[3 * height]
            message = stack[3 * height + 1]
            group = stack[3 * height + 2]
        if height == 0:
            return at
        if at == end:
            return _failure(_GROUP_OPEN, at)
        tag, at = _tag(payload, at, end)
        if at < 0:
            return at


# Attributes --------------------------------------------------------------------------------------


@_inline
def _hash(head: int, tail: int, length: int) -> int:
    mixed = head ^ tail * _word(0x9E3779B97F4A7C15) ^ length
    return mixed * _word(0xD6E8FEB86659FD93) >> _word(40)


@_inline
def _find_key(work: _Work, at: int, end: int) -> int:
    """Index of a key among the wanted names, or -1."""
    payload = work.source.payload
    length = end - at
    if length >= 8:
        head = _load_word(payload, at)
        tail = _load_word(payload, end - 8)
    else:
        head = _short_word(payload, at, end)
        tail = head
    place = _int(_hash(head, tail, _word(length))) & work.slots_mask
    while True:
        slot = _row(work.slots, place)
        if slot.key < 0:
            return _int(-1)
        if slot.head == head and slot.tail == tail and _int(slot.len) == length:
            i = _int(8)
            while i < length - 8 and _load_word(payload, at + i) == _load_word(
                work.text, _int(slot.at) + i
            ):
                i += 8
            if i >= length - 8:
                return _int(slot.key)
        place = (place + 1) & work.slots_mask


@_inline
def _read_attribute(work: _Work, at: int, end: int, depth: int, row: int) -> tuple[int, int]:
    """Writes an attribute to that row if it is wanted.

    Returns:
        The place behind the message, and the next free row.
    """
    payload = work.source.payload
    key_at = key_end = value_at = value_end = at
    kind = _NO_TYPE
    number = _int(0)
    while at < end:
        tag, at = _tag(payload, at, end)
        if at < 0:
            return at, row
        if tag == _KEY:
            key_at, key_end = _text(payload, at, end)
            at = key_end
        elif tag == _VALUE:
            at, stop = _content(payload, at, end)
            if stop < 0:
                return stop, row
            while at < stop:
                tag, at = _tag(payload, at, stop)
                if at < 0:
                    return at, row
                if tag == _STRING:
                    value_at, value_end = _text(payload, at, stop)
                    at = value_end
                    kind = _TYPE_STRING
                elif tag == _INT:
                    number, at = _varint(payload, at, stop)
                    kind = _TYPE_INT
                elif tag == _BOOL:
                    number, at = _varint(payload, at, stop)
                    number = _int(number != 0)
                    kind = _TYPE_BOOL
                elif tag == _DOUBLE:
                    if at + 8 > stop:
                        return _failure(_TRUNCATED, at), row
                    number = _int(_load_word(payload, at))
                    at += 8
                    kind = _TYPE_DOUBLE
                elif tag == _BYTES:
                    value_at, value_end = _content(payload, at, stop)
                    at = value_end
                    kind = _TYPE_BYTES
                else:
                    at = _skip_field(work.source, at, stop, tag, _IN_ANY_VALUE, depth + 1)
                    if tag in (_ARRAY, _MAP, _STRING_INDEX):
                        kind = _NO_TYPE
                if at < 0:
                    return at, row
        else:
            at = _skip_field(work.source, at, end, tag, _IN_KEY_VALUE, depth)
        if at < 0:
            return at, row
    if kind == _NO_TYPE:
        return at, row
    key = _find_key(work, key_at, key_end)
    if key < 0:
        return at, row
    if row == work.attributes_max:
        return _NO_ROOM, row
    attribute = _row(work.attributes, row)
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


@_part
def _read_resource(work: _Work, at: int, end: int, row: int) -> tuple[int, int]:
    """Writes the attributes of all resources of a ResourceSpans, and checks what is no span.

    Spans may come before their resource, and a resource that comes twice is merged. So this walks
    over all fields once, before the spans are read: their attributes then lie together.
    """
    payload = work.source.payload
    while at < end:
        tag, at = _tag(payload, at, end)
        if at < 0:
            return at, row
        if tag == _RESOURCE_SPANS_SCOPE_SPANS:
            _, at = _content(payload, at, end)
        elif tag == _RESOURCE_SPANS_RESOURCE:
            at, stop = _content(payload, at, end)
            if stop < 0:
                return stop, row
            while at < stop:
                tag, at = _tag(payload, at, stop)
                if at >= 0 and tag == _RESOURCE_ATTRIBUTE:
                    at, behind = _content(payload, at, stop)
                    if behind < 0:
                        return behind, row
                    at, row = _read_attribute(work, at, behind, _DEPTH_OF_RESOURCE + 1, row)
                elif at >= 0:
                    at = _skip_field(work.source, at, stop, tag, _IN_RESOURCE, _DEPTH_OF_RESOURCE)
                if at < 0:
                    return at, row
        else:
            at = _skip_field(
                work.source, at, end, tag, _IN_RESOURCE_SPANS, _DEPTH_OF_RESOURCE_SPANS
            )
        if at < 0:
            return at, row
    return at, row


# Feature flags -----------------------------------------------------------------------------------

FLAGS_MAX: Final = 64
"""Different evaluations that are read from one request: flags and variants of each resource."""
FLAG_ROWS_MAX: Final = 8
FLAG_TEXT_MAX: Final = 256
"""An event with more such attributes, or a longer text (bytes) that counts, is no evaluation."""
_FLAG_ROOM: Final = _int((FLAGS_MAX + 1) * FLAG_ROWS_MAX + 1)
"""Rows for the attributes of all, of one more, and of one that is too many."""
_FLAG_SLOTS, _FLAG_TEXT, _ = wanted_keys(FLAG_NAMES)
_FLAG_VARIANT: Final = _int(FLAG_NAMES.index("feature_flag.result.variant"))
_FLAG_VARIANT_OLD: Final = _int(FLAG_NAMES.index("feature_flag.variant"))
_FLAG_VALUE: Final = _int(FLAG_NAMES.index("feature_flag.result.value"))
_EVALUATION: Final = np.frombuffer(FLAG_EVENT.encode(), np.uint8)
_EVALUATION_LENGTHS: Final = (_int(len("feature_flag")), _int(len(FLAG_EVENT)))
"""Such an event has this name, or, as in older conventions, its first word."""


@_inline
def _is_evaluation(payload: Bytes, at: int, end: int) -> bool:
    """Whether an event of that name is the evaluation of a feature flag."""
    length = end - at
    return length in _EVALUATION_LENGTHS and same_bytes(payload, at, _EVALUATION, 0, length)


@_part
def _digest(payload: Bytes, attributes: Table, resource: int, first: int, end: int) -> int:
    """Hash of a resource's number and of what is evaluated; 0 where a text is too long for that.

    The value of a flag counts only where there is no variant: it may be another for every user.
    """
    named = False
    for row in range(first, end):
        named |= attributes[row].key in (_FLAG_VARIANT, _FLAG_VARIANT_OLD)
    digest = _word(resource + 1)
    for row in range(first, end):
        attribute = attributes[row]
        if named and attribute.key == _FLAG_VALUE:
            continue
        length = _int(attribute.len)
        if length > FLAG_TEXT_MAX:
            return _word(0)
        digest = combine(digest, _word(attribute.key) << _word(8) | _word(attribute.type))
        digest = combine(digest, _word(attribute.number))
        digest = hash_bytes(payload, _int(attribute.at), length, digest)
    return digest


@_part
def _read_event(work: _Work, at: int, end: int, first: int) -> tuple[int, int, int, int]:
    """Writes what an event says of a flag from a row on; it was checked before.

    Returns:
        When it happened, where its name begins and ends, and the row behind; that first row where
        it says nothing, or too much.
    """
    payload = work.source.payload
    at, end = _content(payload, at, end)
    row = first
    surplus = False
    name_at = name_end = at
    time = _int(0)
    while at < end:
        tag, at = _tag(payload, at, end)
        if tag == _EVENT_ATTRIBUTE:
            at, stop = _content(payload, at, end)
            at, row = _read_attribute(work, at, stop, _DEPTH_OF_EVENT + 1, row)
            if row > first + FLAG_ROWS_MAX:
                surplus = True
                row = first
        elif tag == _EVENT_TIME:
            time, at = _time(payload, at, end)
        elif tag == _EVENT_NAME:
            name_at, at = _text(payload, at, end)
            name_end = at
        else:
            at = _skip_field(work.source, at, end, tag, _IN_EVENT, _DEPTH_OF_EVENT)
    return time, name_at, name_end, first if surplus else row


@_kernel
def _read_flags(
    payload: Bytes,
    schema: npt.NDArray[np.int8],
    stack: npt.NDArray[np.int64],
    slots: Table,
    text: Bytes,
    flags: Table,
    attributes: Table,
) -> int:
    """Reads the evaluations of flags among the events that were noted; returns how many differ."""
    work = _Work(
        _Source(_pointer(payload), _pointer(schema), _pointer(stack)),
        _pointer(slots),
        len(slots) - 1,
        _pointer(text),
        _pointer(attributes),
        len(attributes),
    )
    count = resource_end = _int(0)
    resource = _int(-1)
    for note in range(_NOTES, _NOTES + stack[_NOTED]):
        while resource_end <= stack[note]:
            tag, at = _tag(work.source.payload, resource_end, payload.size)
            resource_end = _skip_field(
                work.source, at, payload.size, tag, _IN_UNKNOWN, _DEPTH_OF_REQUEST
            )
            resource += tag == _REQUEST_RESOURCE_SPANS
        first = count * FLAG_ROWS_MAX
        time, name_at, name_end, row = _read_event(work, stack[note], payload.size, first)
        if row == first or not _is_evaluation(payload, name_at, name_end):
            continue
        digest = _digest(payload, attributes, resource, first, row)
        if digest == _word(0):
            continue
        known = _int(0)
        while known < count and flags[known].hash != digest:
            known += 1
        if known == FLAGS_MAX:
            continue
        flag = flags[known]
        if known < count:
            flag.time = max(flag.time, time)
            continue
        flag.time = time
        flag.hash = digest
        flag.resource = resource
        flag.attributes_at = first
        flag.attributes_len = row - first
        count += 1
    return count


# Spans -------------------------------------------------------------------------------------------


@_inline
def _load_id(payload: Bytes, at: int) -> int:
    """8 bytes in network order."""
    word = _load_word(payload, at)
    word = (word & _EVERY_SECOND_BYTE) << _word(8) | (word >> _word(8)) & _EVERY_SECOND_BYTE
    word = (word & _EVERY_SECOND_PAIR) << _word(16) | (word >> _word(16)) & _EVERY_SECOND_PAIR
    return word << _word(32) | word >> _word(32)


@_inline
def _time(payload: Bytes, at: int, end: int) -> tuple[int, int]:
    if at + 8 > end:
        return 0, _failure(_TRUNCATED, at)
    nanoseconds = _int(_load_word(payload, at))
    return nanoseconds if nanoseconds >= 0 else _TIME_MAX, at + 8


@_inline
def _code(payload: Bytes, at: int, end: int, code_max: int) -> tuple[int, int]:
    """A number of an enumeration, which is 32 bits of a varint; 0 where it is none of those."""
    value, at = _varint(payload, at, end)
    code = value & 0xFFFFFFFF
    return code if code <= code_max else 0, at


@_part
def _read_status(source: _Source, at: int, end: int, code: int) -> tuple[int, int]:
    while 0 <= at < end:
        tag, at = _tag(source.payload, at, end)
        if at >= 0 and tag == _STATUS_CODE:
            code, at = _code(source.payload, at, end, _STATUS_CODE_MAX)
        elif at >= 0:
            at = _skip_field(source, at, end, tag, _IN_STATUS, _DEPTH_OF_STATUS)
    return code, at


@_inline
def _read_span(work: _Work, at: int, end: int, span: Row, first_row: int) -> tuple[int, bool, int]:
    """Writes a span, all but its resource, and its attributes from `first_row` on.

    Returns:
        The place behind the message, whether the span is valid, and the next free row.
    """
    payload = work.source.payload
    row = first_row
    trace_id_at = trace_id_end = span_id_at = span_id_end = parent_id_at = parent_id_end = at
    name_at = name_end = tracestate_at = tracestate_end = at
    start_time = end_time = kind = status = _int(0)
    while at < end:
        tag, at = _tag(payload, at, end)
        if at < 0:
            return at, False, row
        if tag == _SPAN_ATTRIBUTE:
            at, stop = _content(payload, at, end)
            if stop < 0:
                return stop, False, row
            at, row = _read_attribute(work, at, stop, _DEPTH_OF_SPAN + 1, row)
        elif tag == _SPAN_TRACE_ID:
            trace_id_at, at = _content(payload, at, end)
            trace_id_end = at
        elif tag == _SPAN_ID:
            span_id_at, at = _content(payload, at, end)
            span_id_end = at
        elif tag == _SPAN_PARENT_ID:
            parent_id_at, at = _content(payload, at, end)
            parent_id_end = at
        elif tag == _SPAN_NAME:
            name_at, at = _text(payload, at, end)
            name_end = at
        elif tag == _SPAN_TRACE_STATE:
            tracestate_at, at = _text(payload, at, end)
            tracestate_end = at
        elif tag == _SPAN_KIND:
            kind, at = _code(payload, at, end, _KIND_MAX)
        elif tag == _SPAN_START:
            start_time, at = _time(payload, at, end)
        elif tag == _SPAN_END:
            end_time, at = _time(payload, at, end)
        elif tag == _SPAN_STATUS:
            at, stop = _content(payload, at, end)
            if stop < 0:
                return stop, False, row
            status, at = _read_status(work.source, at, stop, status)
        elif tag == _SPAN_FLAGS:
            at = at + 4 if at + 4 <= end else _failure(_TRUNCATED, at)
        else:
            at = _skip_field(work.source, at, end, tag, _IN_SPAN, _DEPTH_OF_SPAN)
        if at < 0:
            return at, False, row
    if trace_id_end - trace_id_at != 16 or span_id_end - span_id_at != 8:
        return at, False, first_row
    trace_hi = _load_id(payload, trace_id_at)
    trace_lo = _load_id(payload, trace_id_at + 8)
    span_id = _load_id(payload, span_id_at)
    if trace_hi | trace_lo == 0 or span_id == 0:
        return at, False, first_row
    span.trace_hi = trace_hi
    span.trace_lo = trace_lo
    span.span_id = span_id
    span.parent_id = _word(0)
    if parent_id_end - parent_id_at == 8:
        span.parent_id = _load_id(payload, parent_id_at)
    span.start = start_time
    span.end = end_time
    span.name_at = name_at
    span.name_len = name_end - name_at
    span.tracestate_at = tracestate_at
    span.tracestate_len = tracestate_end - tracestate_at
    span.attributes_at = first_row
    span.attributes_len = row - first_row
    span.kind = kind
    span.status = status
    return at, True, row


# Requests ----------------------------------------------------------------------------------------


@_kernel
def _fill(
    payload_array: Bytes,
    slots: Table,
    text: Bytes,
    schema: npt.NDArray[np.int8],
    stack: npt.NDArray[np.int64],
    spans_array: Table,
    resources: Table,
    attributes: Table,
) -> tuple[int, int, int, int, int]:
    """Decodes a request into the given arrays.

    Returns:
        The place behind the request or the first failure; how many spans were kept, resources and
        attributes there are; and how many spans were rejected.
    """
    payload, spans = _pointer(payload_array), _pointer(spans_array)
    source = _Source(payload, _pointer(schema), _pointer(stack))
    work = _Work(
        source,
        _pointer(slots),
        len(slots) - 1,
        _pointer(text),
        _pointer(attributes),
        len(attributes),
    )
    end = payload_array.size
    at = row = kept = rejected = resource = _int(0)
    while at < end:
        tag, at = _tag(payload, at, end)
        if at < 0:
            return at, kept, resource, row, rejected
        if tag != _REQUEST_RESOURCE_SPANS:
            at = _skip_field(source, at, end, tag, _IN_REQUEST, _DEPTH_OF_REQUEST)
            if at < 0:
                return at, kept, resource, row, rejected
            continue
        start, resource_end = _content(payload, at, end)
        if resource_end < 0:
            return resource_end, kept, resource, row, rejected
        first_row = row
        at, row = _read_resource(work, start, resource_end, row)
        if at < 0:
            return at, kept, resource, row, rejected
        if resource == len(resources):
            return _NO_ROOM, kept, resource, row, rejected
        resources[resource].attributes_at = first_row
        resources[resource].attributes_len = row - first_row
        at = start
        while at < resource_end:
            tag, at = _tag(payload, at, resource_end)
            if tag != _RESOURCE_SPANS_SCOPE_SPANS:
                # Checked before, with its content.
                at = _skip_field(
                    source, at, resource_end, tag, _IN_UNKNOWN, _DEPTH_OF_RESOURCE_SPANS
                )
                continue
            at, scope_end = _content(payload, at, resource_end)
            while at < scope_end:
                tag, at = _tag(payload, at, scope_end)
                if at >= 0 and tag != _SCOPE_SPANS_SPAN:
                    at = _skip_field(
                        source, at, scope_end, tag, _IN_SCOPE_SPANS, _DEPTH_OF_SCOPE_SPANS
                    )
                elif at >= 0:
                    at, span_end = _content(payload, at, scope_end)
                    if span_end < 0:
                        return span_end, kept, resource, row, rejected
                    if kept == len(spans_array) and span_end - at >= _SPAN_BYTES_MIN:
                        return _NO_ROOM, kept, resource, row, rejected
                    span = _row(spans, kept)
                    at, valid, row = _read_span(work, at, span_end, span, row)
                    if valid:
                        span.resource = resource
                        kept += 1
                    else:
                        rejected += 1
                if at < 0:
                    return at, kept, resource, row, rejected
        resource += 1
    return at, kept, resource, row, rejected
