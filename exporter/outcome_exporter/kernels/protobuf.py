"""Protobuf's wire format: tags, numbers, lengths, texts, and the check of what is not read.

It knows no message. A schema says what a length-delimited field holds: a table with a row for each
kind of message and a column for each field number. Who reads a message often does so by hand, with
the parts that are here; whatever is rare goes through `skip_field`, which walks any message by the
schema without recursion, and can note where fields of some kind are, to be read later.

What is accepted is exactly what the official protobuf library accepts (its C core, upb), which is
the oracle of the tests:
- Everything is checked, also what is not read: every bound, and the UTF-8 of every text.
- Unknown fields are skipped, groups included. A known field of another wire type is an unknown one.
- Messages and groups may be nested 100 deep below the outermost. Tags and lengths have up to 5
  bytes, other varints up to 10, whose surplus bits are dropped. Field number 0 is an error, but
  not within a group, where the library does not look.

A place is an int64: from 0 on a position in the payload, below 0 a problem and where it is. Every
part that reads returns the place behind what it read, and whoever calls it looks at that before
going on. No part reads at or beyond `end`, which is never beyond the payload; bytes are read in
words of 8 where that stays within it.

The parts take pointers instead of arrays, of which each call would hand over seven words. To the
type checker a pointer is the array, and every integer an int.

Known limit: little-endian machines only.
"""

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from outcome_exporter.kernels.jit import inlined, kernel
from outcome_exporter.kernels.words import as_int, as_word, load_word
from outcome_exporter.model import Bytes

VARINT: Final = 0
FIXED64: Final = 1
DELIMITED: Final = 2
_GROUP: Final = 3
_END_GROUP: Final = 4
FIXED32: Final = 5
"""Wire types. A tag is a field number and one of them: number << 3 | type."""

_DEPTH_MAX: Final = as_int(100)
_VARINT_BYTES_MAX: Final = as_int(10)
_TAG_BYTES_MAX: Final = as_int(5)
_LENGTH_BYTES_MAX: Final = as_int(5)
_LENGTH_MAX: Final = 2**31 - 2

# Schemas -----------------------------------------------------------------------------------------

FIELD_NUMBERS: Final = 16
"""One more than the highest field number that a schema tells of."""
OPAQUE: Final = -1
"""In a schema: a field that is bytes, or unknown. Kinds of messages are numbers from 0 on."""
TEXT: Final = -2
"""In a schema: a field that must be UTF-8."""
NOTED: Final = 64
"""In a schema, on top of a kind of message: where such fields are passed over, they are noted."""
IN_UNKNOWN: Final = as_int(-1)
"""Within a message whose texts and submessages are not to be looked at."""
_IN_GROUP: Final = as_int(-2)

NOTES: Final = 3 * _DEPTH_MAX
"""Here the stack of `skip_field` ends, which takes three numbers for each level of nesting. Behind
it: how many fields were noted, how many may be, and from `FIRST_NOTE` on the place of each, which
is behind its tag."""
NOTES_MAX: Final = NOTES + 1
FIRST_NOTE: Final = NOTES + 2


class Source(NamedTuple):
    """Pointers to what is read, and how."""

    payload: Bytes
    schema: npt.NDArray[np.int8]
    stack: npt.NDArray[np.int64]
    """With notes behind, as `stack_with_notes` makes it."""


def stack_with_notes(notes_max: int) -> npt.NDArray[np.int64]:
    """What `skip_field` works in, with room for notes of as many fields, the first of all."""
    stack = np.empty(FIRST_NOTE + notes_max, np.int64)
    stack[NOTES] = 0
    stack[NOTES_MAX] = notes_max
    return stack


# Problems ----------------------------------------------------------------------------------------

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
TRUNCATED: Final = as_int(0)
_LONG_VARINT: Final = as_int(1)
_LONG_TAG: Final = as_int(2)
_LONG_LENGTH: Final = as_int(3)
_FIELD_ZERO: Final = as_int(4)
_WIRE_TYPE: Final = as_int(5)
_GROUP_END: Final = as_int(6)
_GROUP_OPEN: Final = as_int(7)
_NOT_UTF8: Final = as_int(8)
_TOO_DEEP: Final = as_int(9)
NO_ROOM: Final = as_int(-16)
"""No problem of the payload: what is read has no room where it is to be written."""


@inlined
def failure(problem: int, at: int) -> int:
    """The place below 0 that stands for a problem found at a position."""
    return -(at * 16 + problem) - 1


def problem_at(place: int) -> tuple[int, str]:
    """Position and name of the problem that a place below 0 stands for, other than `NO_ROOM`."""
    offset, problem = divmod(-place - 1, 16)
    return offset, _PROBLEMS[problem]


# Numbers and lengths -----------------------------------------------------------------------------


@inlined
def _byte(payload: Bytes, at: int) -> int:
    return as_int(payload[at])


@inlined
def short_word(payload: Bytes, at: int, end: int) -> int:
    """Fewer than 8 bytes, as `load_word` would read them if zeros followed."""
    length = end - at
    if length == 0:
        return as_word(0)
    if end >= 8:
        return load_word(payload, end - 8) >> as_word(64 - 8 * length)
    word = as_word(0)
    while end > at:
        end -= 1
        word = word << as_word(8) | as_word(payload[end])
    return word


@kernel
def _long_varint(
    payload: Bytes, at: int, end: int, bytes_max: int, problem: int
) -> tuple[int, int]:
    value = as_int(0)
    for i in range(bytes_max):
        if at + i >= end:
            return value, failure(TRUNCATED, at)
        byte = _byte(payload, at + i)
        value |= (byte & 0x7F) << (7 * i)
        if byte < 0x80:
            return value, at + i + 1
    return value, failure(problem, at)


@inlined
def read_varint(payload: Bytes, at: int, end: int) -> tuple[int, int]:
    """The value, all 64 bits of it, and the place behind it."""
    if at < end:
        byte = _byte(payload, at)
        if byte < 0x80:
            return byte, at + 1
    return _long_varint(payload, at, end, _VARINT_BYTES_MAX, _LONG_VARINT)


@inlined
def read_tag(payload: Bytes, at: int, end: int) -> tuple[int, int]:
    """The tag, and the place behind it. Its number may be 0."""
    if at < end:
        byte = _byte(payload, at)
        if byte < 0x80:
            return byte, at + 1
    tag, behind = _long_varint(payload, at, end, _TAG_BYTES_MAX, _LONG_TAG)
    if behind >= 0 and tag > 0xFFFFFFFF:
        behind = failure(_LONG_TAG, at)
    return tag, behind


@inlined
def read_content(payload: Bytes, at: int, end: int) -> tuple[int, int]:
    """Where a length-delimited field's content begins, and where it ends: the place behind it."""
    if at < end:
        length = _byte(payload, at)
        if length < 0x80:
            if at + 1 + length <= end:
                return at + 1, at + 1 + length
            return at, failure(TRUNCATED, at)
    return _long_content(payload, at, end)


@kernel
def _long_content(payload: Bytes, at: int, end: int) -> tuple[int, int]:
    length, start = _long_varint(payload, at, end, _LENGTH_BYTES_MAX, _LONG_LENGTH)
    if start < 0:
        return at, start
    if length > _LENGTH_MAX:
        return at, failure(_LONG_LENGTH, at)
    if start + length > end:
        return at, failure(TRUNCATED, at)
    return start, start + length


# Texts -------------------------------------------------------------------------------------------

_HIGH_BITS: Final = as_word(0x8080808080808080)


@inlined
def read_text(payload: Bytes, at: int, end: int) -> tuple[int, int]:
    """As `read_content`, of a field that must be UTF-8."""
    start, stop = read_content(payload, at, end)
    if stop >= 0:
        stop = _check_text(payload, start, stop)
    return start, stop


@inlined
def _check_text(payload: Bytes, at: int, end: int) -> int:
    """`end` where the bytes from `at` on are UTF-8, else the failure."""
    if end - at < 8:
        if short_word(payload, at, end) & _HIGH_BITS == 0:
            return end
        return _check_utf8(payload, at, end)
    place = at
    while place < end - 8:
        if load_word(payload, place) & _HIGH_BITS != 0:
            return _check_utf8(payload, place, end)
        place += 8
    if load_word(payload, end - 8) & _HIGH_BITS == 0:
        return end
    return _check_utf8(payload, place, end)


@kernel
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
            return failure(_NOT_UTF8, at)
        if at + length > end or not low <= _byte(payload, at + 1) <= high:
            return failure(_NOT_UTF8, at)
        for i in range(2, length):
            if _byte(payload, at + i) & 0xC0 != 0x80:
                return failure(_NOT_UTF8, at)
        at += length
    return end


# What is not read --------------------------------------------------------------------------------


@kernel
def skip_field(source: Source, at: int, end: int, tag: int, message: int, depth: int) -> int:
    """Checks a field, with all messages and groups within, and returns the place behind it.

    Args:
        source: The payload, the schema and the stack.
        at: Behind the field's tag.
        end: Of the message that the field is in.
        tag: The field's.
        message: Kind of that message, a row of the schema, or `IN_UNKNOWN`.
        depth: How deep that message is nested in the outermost.
    """
    payload, stack = source.payload, source.stack
    height = 0
    group = 0
    while True:
        number = tag >> 3
        wire_type = tag & 7
        if number == 0 and message != _IN_GROUP:
            return failure(_FIELD_ZERO, at)
        if wire_type == DELIMITED:
            start, stop = read_content(payload, at, end)
            content = OPAQUE
            if message >= 0 and number < FIELD_NUMBERS:
                content = as_int(source.schema[message * FIELD_NUMBERS + number])
            if stop >= 0 and content == TEXT:
                at = _check_text(payload, start, stop)
            elif stop >= 0 and content != OPAQUE:
                if depth + height >= _DEPTH_MAX:
                    return failure(_TOO_DEEP, at)
                if content >= NOTED:
                    content -= NOTED
                    if stack[NOTES] < stack[NOTES_MAX]:
                        stack[FIRST_NOTE + stack[NOTES]] = at
                        stack[NOTES] += 1
                stack[3 * height] = end
                stack[3 * height + 1] = message
                stack[3 * height + 2] = group
                height += 1
                at, end, message = start, stop, content
            else:
                at = stop
        elif wire_type == VARINT:
            _, at = read_varint(payload, at, end)
        elif wire_type == FIXED64:
            at = at + 8 if at + 8 <= end else failure(TRUNCATED, at)
        elif wire_type == FIXED32:
            at = at + 4 if at + 4 <= end else failure(TRUNCATED, at)
        elif wire_type == _GROUP:
            if depth + height >= _DEPTH_MAX:
                return failure(_TOO_DEEP, at)
            stack[3 * height] = end
            stack[3 * height + 1] = message
            stack[3 * height + 2] = group
            height += 1
            message, group = _IN_GROUP, number
        elif wire_type == _END_GROUP:
            if message != _IN_GROUP or number != group:
                return failure(_GROUP_END, at)
            height -= 1
            end = stack[3 * height]
            message = stack[3 * height + 1]
            group = stack[3 * height + 2]
        else:
            return failure(_WIRE_TYPE, at)
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
            return failure(_GROUP_OPEN, at)
        tag, at = read_tag(payload, at, end)
        if at < 0:
            return at
