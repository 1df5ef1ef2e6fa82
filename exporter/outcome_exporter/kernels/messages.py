"""How many messages a protobuf request is made of, told before the library parses it.

An empty message takes 2 bytes on the wire and some 130 in memory: 64 MiB of them, 64 KB as sent
with gzip, became 4 GB and 100 s of one processor. So requests that go through the library are
bounded by the number of their messages, as JSON is by the number of its values (`strict_json`).

The schema comes from the library's own descriptors, so that it knows whatever the library parses.
Texts are left to the library; so is whatever is wrong, before which nothing was parsed that was not
counted. Linear in the bytes, a walk without Python objects.
"""

from functools import cache
from typing import Final

import numpy as np
import numpy.typing as npt
from google.protobuf.message import Message

from outcome_exporter.errors import DecodeError
from outcome_exporter.kernels.jit import kernel
from outcome_exporter.kernels.protobuf import (
    FIELD_NUMBERS,
    NOTED,
    NOTES,
    OPAQUE,
    Source,
    read_tag,
    skip_field,
    stack_with_notes,
)
from outcome_exporter.kernels.words import as_int, pointer
from outcome_exporter.model import Bytes

MESSAGES_MAX: Final = 2_000_000
"""In one request: some 260 MB of them. Attributes, of two messages each, have one in about 15
bytes."""
_MESSAGE_BYTES_MIN: Final = 2
_REQUEST: Final = as_int(0)


def check_messages(payload: bytes, request: type[Message]) -> None:
    """Nothing, for a request that may be parsed.

    Raises:
        DecodeError: It is made of more than `MESSAGES_MAX` messages.
    """
    enough = len(payload) > _MESSAGE_BYTES_MIN * MESSAGES_MAX
    if enough and count_messages(payload, request, MESSAGES_MAX + 1) > MESSAGES_MAX:
        raise DecodeError(
            f"a request of more than {MESSAGES_MAX} messages; send fewer records in one request"
        )


def count_messages(payload: bytes, request: type[Message], enough: int) -> int:
    """Messages within a request, up to `enough`, or up to where it is malformed."""
    return _count(np.frombuffer(payload, np.uint8), _schema(request), stack_with_notes(enough))


@cache
def _schema(request: type[Message]) -> npt.NDArray[np.int8]:
    """What a length-delimited field holds; the request is row 0. Shape (messages, numbers)."""
    found = [request.DESCRIPTOR]
    rows = []
    for message in found:  # grows meanwhile
        row = np.full(FIELD_NUMBERS, OPAQUE, np.int8)
        for field in message.fields:
            if field.message_type is not None:
                assert field.number < FIELD_NUMBERS
                if field.message_type not in found:
                    found.append(field.message_type)
                row[field.number] = NOTED + found.index(field.message_type)
        rows.append(row)
    assert len(rows) < NOTED
    return np.stack(rows)


@kernel
def _count(payload: Bytes, schema: npt.NDArray[np.int8], stack: npt.NDArray[np.int64]) -> int:
    """Messages up to the end, or to what is wrong; at most as many as the stack has room for."""
    source = Source(pointer(payload), pointer(schema), pointer(stack))
    at = as_int(0)
    end = payload.size
    while 0 <= at < end:
        tag, at = read_tag(source.payload, at, end)
        if at >= 0:
            at = skip_field(source, at, end, tag, _REQUEST, 0)
    return as_int(stack[NOTES])
