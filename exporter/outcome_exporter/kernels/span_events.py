"""Events of spans: the evaluations of feature flags among them, each different one once.

Events are rare and long. While spans are read, those of a request are passed over like any other
field that is not read, and only their places are noted, behind the stack of `skip_field`. Where
there are some, a second kernel reads them once the request is known to be well-formed: it checks
nothing anew, and each evaluation of a resource is kept once, with its last time.

What is decided here, beyond the format:
- An evaluation is an event that is named for it and has an attribute of `FLAG_NAMES`. The flag's
  value tells evaluations apart only where there is no variant.
- What is above `EVENTS_MAX`, `FLAGS_MAX`, `FLAG_ROWS_MAX` or `FLAG_TEXT_MAX` is left out.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from outcome_exporter.kernels.hashing import combine, hash_bytes, same_bytes
from outcome_exporter.kernels.jit import inlined, kernel
from outcome_exporter.kernels.otlp_schema import DEPTHS, REQUEST_RESOURCE_SPANS, SCHEMA, Message
from outcome_exporter.kernels.otlp_values import (
    Reader,
    read_attribute,
    read_time,
    reader_of,
    wanted_keys,
)
from outcome_exporter.kernels.protobuf import (
    DELIMITED,
    FIRST_NOTE,
    FIXED64,
    IN_UNKNOWN,
    NOTES,
    read_content,
    read_tag,
    read_text,
    skip_field,
)
from outcome_exporter.kernels.words import as_int, as_word
from outcome_exporter.model import (
    ATTRIBUTE,
    FLAG,
    FLAG_EVENT,
    FLAG_NAMES,
    Bytes,
    SpanBatch,
    Table,
)

_EVENT_TIME: Final = 1 << 3 | FIXED64
_EVENT_NAME: Final = 2 << 3 | DELIMITED
_EVENT_ATTRIBUTE: Final = 3 << 3 | DELIMITED

_IN_EVENT: Final = as_int(Message.EVENT)
_DEPTH_OF_REQUEST: Final = as_int(DEPTHS[Message.REQUEST])
_DEPTH_OF_EVENT: Final = as_int(DEPTHS[Message.EVENT])

EVENTS_MAX: Final = 1 << 14
"""Events of spans, the first of a request, in which flags are looked for."""
_EVENT_BYTES_MIN: Final = 2
"""Of an empty one: a tag and a length."""
FLAGS_MAX: Final = 64
"""Different evaluations that are read from one request: flags and variants of each resource."""
FLAG_ROWS_MAX: Final = 8
FLAG_TEXT_MAX: Final = 256
"""An event with more such attributes, or a longer text (bytes) that counts, is no evaluation."""
_FLAG_ROOM: Final = as_int((FLAGS_MAX + 1) * FLAG_ROWS_MAX + 1)
"""Rows for the attributes of all, of one more, and of one that is too many."""
_FLAG_SLOTS, _FLAG_TEXT, _ = wanted_keys(FLAG_NAMES)
_FLAG_VARIANT: Final = as_int(FLAG_NAMES.index("feature_flag.result.variant"))
_FLAG_VARIANT_OLD: Final = as_int(FLAG_NAMES.index("feature_flag.variant"))
_FLAG_VALUE: Final = as_int(FLAG_NAMES.index("feature_flag.result.value"))
_EVALUATION: Final = np.frombuffer(FLAG_EVENT.encode(), np.uint8)
_EVALUATION_LENGTHS: Final = (as_int(len("feature_flag")), as_int(len(FLAG_EVENT)))
"""Such an event has this name, or, as in older conventions, its first word."""


def notes_max(payload_bytes: int) -> int:
    """Events that are noted of a request of that size."""
    return min(payload_bytes // _EVENT_BYTES_MIN, EVENTS_MAX)


def with_flags(batch: SpanBatch, stack: npt.NDArray[np.int64]) -> SpanBatch:
    """The batch with the evaluations among the events that were noted while it was read."""
    if not stack[NOTES]:
        return batch
    flags = np.empty(FLAGS_MAX, FLAG)
    attributes = np.empty(_FLAG_ROOM, ATTRIBUTE)
    count = _read_flags(batch.payload, SCHEMA, stack, _FLAG_SLOTS, _FLAG_TEXT, flags, attributes)
    if count == 0:
        return batch
    # Copies, since what is kept for the pipeline is counted by its bytes.
    return batch._replace(
        flags=flags[:count].copy(), flag_attributes=attributes[: count * FLAG_ROWS_MAX].copy()
    )


@inlined
def _is_evaluation(payload: Bytes, at: int, end: int) -> bool:
    """Whether an event of that name is the evaluation of a feature flag."""
    length = end - at
    return length in _EVALUATION_LENGTHS and same_bytes(payload, at, _EVALUATION, 0, length)


@kernel
def _digest(payload: Bytes, attributes: Table, resource: int, first: int, end: int) -> int:
    """Hash of a resource's number and of what is evaluated; 0 where a text is too long for that.

    The value of a flag counts only where there is no variant: it may be another for every user.
    """
    named = False
    for row in range(first, end):
        named |= attributes[row].key in (_FLAG_VARIANT, _FLAG_VARIANT_OLD)
    digest = as_word(resource + 1)
    for row in range(first, end):
        attribute = attributes[row]
        if named and attribute.key == _FLAG_VALUE:
            continue
        length = as_int(attribute.len)
        if length > FLAG_TEXT_MAX:
            return as_word(0)
        digest = combine(digest, as_word(attribute.key) << as_word(8) | as_word(attribute.type))
        digest = combine(digest, as_word(attribute.number))
        digest = hash_bytes(payload, as_int(attribute.at), length, digest)
    return digest


@kernel
def _read_event(reader: Reader, at: int, end: int, first: int) -> tuple[int, int, int, int]:
    """Writes what an event says of a flag from a row on; it was checked before.

    Returns:
        When it happened, where its name begins and ends, and the row behind; that first row where
        it says nothing, or too much.
    """
    payload = reader.source.payload
    at, end = read_content(payload, at, end)
    row = first
    surplus = False
    name_at = name_end = at
    time = as_int(0)
    while at < end:
        tag, at = read_tag(payload, at, end)
        if tag == _EVENT_ATTRIBUTE:
            at, stop = read_content(payload, at, end)
            at, row = read_attribute(reader, at, stop, _DEPTH_OF_EVENT + 1, row)
            if row > first + FLAG_ROWS_MAX:
                surplus = True
                row = first
        elif tag == _EVENT_TIME:
            time, at = read_time(payload, at, end)
        elif tag == _EVENT_NAME:
            name_at, at = read_text(payload, at, end)
            name_end = at
        else:
            at = skip_field(reader.source, at, end, tag, _IN_EVENT, _DEPTH_OF_EVENT)
    return time, name_at, name_end, first if surplus else row


@kernel
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
    reader = reader_of(payload, schema, stack, slots, text, attributes)
    count = resource_end = as_int(0)
    resource = as_int(-1)
    for note in range(FIRST_NOTE, FIRST_NOTE + stack[NOTES]):
        while resource_end <= stack[note]:
            tag, at = read_tag(reader.source.payload, resource_end, payload.size)
            resource_end = skip_field(
                reader.source, at, payload.size, tag, IN_UNKNOWN, _DEPTH_OF_REQUEST
            )
            resource += tag == REQUEST_RESOURCE_SPANS
        first = count * FLAG_ROWS_MAX
        time, name_at, name_end, row = _read_event(reader, stack[note], payload.size, first)
        if row == first or not _is_evaluation(payload, name_at, name_end):
            continue
        digest = _digest(payload, attributes, resource, first, row)
        if digest == as_word(0):
            continue
        known = as_int(0)
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
