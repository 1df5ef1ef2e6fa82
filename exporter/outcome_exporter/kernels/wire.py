"""Decodes trace requests straight into columns: what resources and spans mean.

The one wire parser of the project, because throughput is what the product exists for: a span costs
no Python object. In: the bytes of an `ExportTraceServiceRequest` and the names of the wanted
attributes. Out: a `SpanBatch`, whose texts are places in those bytes. Stateless: many threads may
decode at once, and the GIL is free meanwhile. Linear in the bytes.

The format itself, and what of it is accepted, stands in `protobuf`; attributes and times in
`otlp_values`; feature flags, which events of spans tell, in `span_events`. A malformed request is
refused as a whole, with the place of the first problem found. A scalar that comes twice counts as
it comes last; a message that comes twice is merged.

What is decided here, beyond the format:
- A span whose trace id has not 16 bytes, whose span id has not 8, or either of which is zero, is
  left out and counted. A parent id that has not 8 bytes counts as none: the span is whole without.
- A kind or status code that the schema does not know counts as unspecified or unset.
- A request of 4 GiB or more is refused, because places are 32 bits.

How: one pass, into room for as many rows as a request of that size has as a rule; where it has
more, another one, with room for the most that its bytes can hold. (Rejected: to count the spans
first, which touches every one of them twice.) Request → resource → span is written out by
hand, and so sensitive to the layout of the compiled code that one branch more among the fields of
a span can make each a tenth slower: measure every change with `tests.bench`.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from outcome_exporter.buffers import Buffers
from outcome_exporter.errors import DecodeError
from outcome_exporter.kernels.jit import inlined, kernel
from outcome_exporter.kernels.otlp_schema import DEPTHS, REQUEST_RESOURCE_SPANS, SCHEMA, Message
from outcome_exporter.kernels.otlp_values import (
    Reader,
    WantedKeys,
    read_attribute,
    read_time,
    reader_of,
)
from outcome_exporter.kernels.protobuf import (
    DELIMITED,
    FIXED32,
    FIXED64,
    IN_UNKNOWN,
    NO_ROOM,
    TRUNCATED,
    VARINT,
    Source,
    failure,
    problem_at,
    read_content,
    read_tag,
    read_text,
    read_varint,
    skip_field,
    stack_with_notes,
)
from outcome_exporter.kernels.span_events import notes_max, with_flags
from outcome_exporter.kernels.words import as_int, as_word, load_word, pointer, row_at
from outcome_exporter.model import ATTRIBUTE, RESOURCE, SPAN, Bytes, Row, SpanBatch, Table

_PAYLOAD_MAX: Final = 2**32 - 1
_KIND_MAX: Final = as_int(5)
_STATUS_CODE_MAX: Final = as_int(2)

# Tags are field numbers and wire types: number << 3 | type.
_RESOURCE_SPANS_RESOURCE: Final = 1 << 3 | DELIMITED
_RESOURCE_SPANS_SCOPE_SPANS: Final = 2 << 3 | DELIMITED
_RESOURCE_ATTRIBUTE: Final = 1 << 3 | DELIMITED
_SCOPE_SPANS_SPAN: Final = 2 << 3 | DELIMITED
_SPAN_TRACE_ID: Final = 1 << 3 | DELIMITED
_SPAN_ID: Final = 2 << 3 | DELIMITED
_SPAN_TRACE_STATE: Final = 3 << 3 | DELIMITED
_SPAN_PARENT_ID: Final = 4 << 3 | DELIMITED
_SPAN_NAME: Final = 5 << 3 | DELIMITED
_SPAN_KIND: Final = 6 << 3 | VARINT
_SPAN_START: Final = 7 << 3 | FIXED64
_SPAN_END: Final = 8 << 3 | FIXED64
_SPAN_ATTRIBUTE: Final = 9 << 3 | DELIMITED
_SPAN_STATUS: Final = 15 << 3 | DELIMITED
_SPAN_FLAGS: Final = 16 << 3 | FIXED32
_STATUS_CODE: Final = 3 << 3 | VARINT

# Messages as plain numbers, so that the compiled functions take one type.
_IN_REQUEST: Final = as_int(Message.REQUEST)
_IN_RESOURCE_SPANS: Final = as_int(Message.RESOURCE_SPANS)
_IN_RESOURCE: Final = as_int(Message.RESOURCE)
_IN_SCOPE_SPANS: Final = as_int(Message.SCOPE_SPANS)
_IN_SPAN: Final = as_int(Message.SPAN)
_IN_STATUS: Final = as_int(Message.STATUS)

_DEPTH_OF_REQUEST: Final = as_int(DEPTHS[Message.REQUEST])
_DEPTH_OF_RESOURCE_SPANS: Final = as_int(DEPTHS[Message.RESOURCE_SPANS])
_DEPTH_OF_RESOURCE: Final = as_int(DEPTHS[Message.RESOURCE])
_DEPTH_OF_SCOPE_SPANS: Final = as_int(DEPTHS[Message.SCOPE_SPANS])
_DEPTH_OF_SPAN: Final = as_int(DEPTHS[Message.SPAN])
_DEPTH_OF_STATUS: Final = as_int(DEPTHS[Message.STATUS])

_SPAN_BYTES_MIN: Final = 28
"""Of a span with both ids: 16 and 8, each behind a tag and a length."""
_RESOURCE_BYTES_MIN: Final = 2
"""Of an empty one: a tag and a length."""
_USUAL_BYTES: Final = (80, 80, 32)
"""Bytes of a request for each span, resource and wanted attribute in it, at least, as a rule."""


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
    buffers = buffers or Buffers(0)
    place = NO_ROOM
    tables: list[Table] = []
    for bytes_a_row in (_USUAL_BYTES, _fewest_bytes(wanted)):
        tables = [
            buffers.take((data.size // size + 1) * dtype.itemsize).view(dtype)
            for dtype, size in zip((SPAN, RESOURCE, ATTRIBUTE), bytes_a_row, strict=True)
        ]
        stack = stack_with_notes(notes_max(data.size))
        place, *counts, rejected = _fill(data, wanted.slots, wanted.text, SCHEMA, stack, *tables)
        if place != NO_ROOM:
            break
    if place < 0:
        raise _error_at(place)
    spans, resources, attributes = (table[:n] for table, n in zip(tables, counts, strict=True))
    return with_flags(SpanBatch(data, spans, resources, attributes, rejected), stack)


def _fewest_bytes(wanted: WantedKeys) -> tuple[int, int, int]:
    """Bytes that a span, a resource and a wanted attribute have at least."""
    return _SPAN_BYTES_MIN, _RESOURCE_BYTES_MIN, wanted.attribute_bytes_min


def _error_at(place: int) -> DecodeError:
    offset, problem = problem_at(place)
    return DecodeError(f"no OTLP trace request: {problem}", offset=offset)


# Resources ---------------------------------------------------------------------------------------


@kernel
def _read_resource(reader: Reader, at: int, end: int, row: int) -> tuple[int, int]:
    """Writes the attributes of all resources of a ResourceSpans, and checks what is no span.

    Spans may come before their resource, and a resource that comes twice is merged. So this walks
    over all fields once, before the spans are read: their attributes then lie together.
    """
    payload = reader.source.payload
    while at < end:
        tag, at = read_tag(payload, at, end)
        if at < 0:
            return at, row
        if tag == _RESOURCE_SPANS_SCOPE_SPANS:
            _, at = read_content(payload, at, end)
        elif tag == _RESOURCE_SPANS_RESOURCE:
            at, stop = read_content(payload, at, end)
            if stop < 0:
                return stop, row
            while at < stop:
                tag, at = read_tag(payload, at, stop)
                if at >= 0 and tag == _RESOURCE_ATTRIBUTE:
                    at, behind = read_content(payload, at, stop)
                    if behind < 0:
                        return behind, row
                    at, row = read_attribute(reader, at, behind, _DEPTH_OF_RESOURCE + 1, row)
                elif at >= 0:
                    at = skip_field(reader.source, at, stop, tag, _IN_RESOURCE, _DEPTH_OF_RESOURCE)
                if at < 0:
                    return at, row
        else:
            at = skip_field(
                reader.source, at, end, tag, _IN_RESOURCE_SPANS, _DEPTH_OF_RESOURCE_SPANS
            )
        if at < 0:
            return at, row
    return at, row


# Spans -------------------------------------------------------------------------------------------

_EVERY_SECOND_BYTE: Final = as_word(0x00FF00FF00FF00FF)
_EVERY_SECOND_PAIR: Final = as_word(0x0000FFFF0000FFFF)


@inlined
def _load_id(payload: Bytes, at: int) -> int:
    """8 bytes in network order."""
    word = load_word(payload, at)
    word = (word & _EVERY_SECOND_BYTE) << as_word(8) | (word >> as_word(8)) & _EVERY_SECOND_BYTE
    word = (word & _EVERY_SECOND_PAIR) << as_word(16) | (word >> as_word(16)) & _EVERY_SECOND_PAIR
    return word << as_word(32) | word >> as_word(32)


@inlined
def _code(payload: Bytes, at: int, end: int, code_max: int) -> tuple[int, int]:
    """A number of an enumeration, which is 32 bits of a varint; 0 where it is none of those."""
    value, at = read_varint(payload, at, end)
    code = value & 0xFFFFFFFF
    return code if code <= code_max else 0, at


@kernel
def _read_status(source: Source, at: int, end: int, code: int) -> tuple[int, int]:
    while 0 <= at < end:
        tag, at = read_tag(source.payload, at, end)
        if at >= 0 and tag == _STATUS_CODE:
            code, at = _code(source.payload, at, end, _STATUS_CODE_MAX)
        elif at >= 0:
            at = skip_field(source, at, end, tag, _IN_STATUS, _DEPTH_OF_STATUS)
    return code, at


@inlined
def _read_span(
    reader: Reader, at: int, end: int, span: Row, first_row: int
) -> tuple[int, bool, int]:
    """Writes a span, all but its resource, and its attributes from `first_row` on.

    Returns:
        The place behind the message, whether the span is valid, and the next free row.
    """
    payload = reader.source.payload
    row = first_row
    trace_id_at = trace_id_end = span_id_at = span_id_end = parent_id_at = parent_id_end = at
    name_at = name_end = tracestate_at = tracestate_end = at
    start_time = end_time = kind = status = as_int(0)
    while at < end:
        tag, at = read_tag(payload, at, end)
        if at < 0:
            return at, False, row
        if tag == _SPAN_ATTRIBUTE:
            at, stop = read_content(payload, at, end)
            if stop < 0:
                return stop, False, row
            at, row = read_attribute(reader, at, stop, _DEPTH_OF_SPAN + 1, row)
        elif tag == _SPAN_TRACE_ID:
            trace_id_at, at = read_content(payload, at, end)
            trace_id_end = at
        elif tag == _SPAN_ID:
            span_id_at, at = read_content(payload, at, end)
            span_id_end = at
        elif tag == _SPAN_PARENT_ID:
            parent_id_at, at = read_content(payload, at, end)
            parent_id_end = at
        elif tag == _SPAN_NAME:
            name_at, at = read_text(payload, at, end)
            name_end = at
        elif tag == _SPAN_TRACE_STATE:
            tracestate_at, at = read_text(payload, at, end)
            tracestate_end = at
        elif tag == _SPAN_KIND:
            kind, at = _code(payload, at, end, _KIND_MAX)
        elif tag == _SPAN_START:
            start_time, at = read_time(payload, at, end)
        elif tag == _SPAN_END:
            end_time, at = read_time(payload, at, end)
        elif tag == _SPAN_STATUS:
            at, stop = read_content(payload, at, end)
            if stop < 0:
                return stop, False, row
            status, at = _read_status(reader.source, at, stop, status)
        elif tag == _SPAN_FLAGS:
            at = at + 4 if at + 4 <= end else failure(TRUNCATED, at)
        else:
            at = skip_field(reader.source, at, end, tag, _IN_SPAN, _DEPTH_OF_SPAN)
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
    span.parent_id = as_word(0)
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


@kernel
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
    reader = reader_of(payload_array, schema, stack, slots, text, attributes)
    source, spans = reader.source, pointer(spans_array)
    payload = source.payload
    end = payload_array.size
    at = row = kept = rejected = resource = as_int(0)
    while at < end:
        tag, at = read_tag(payload, at, end)
        if at < 0:
            return at, kept, resource, row, rejected
        if tag != REQUEST_RESOURCE_SPANS:
            at = skip_field(source, at, end, tag, _IN_REQUEST, _DEPTH_OF_REQUEST)
            if at < 0:
                return at, kept, resource, row, rejected
            continue
        start, resource_end = read_content(payload, at, end)
        if resource_end < 0:
            return resource_end, kept, resource, row, rejected
        first_row = row
        at, row = _read_resource(reader, start, resource_end, row)
        if at < 0:
            return at, kept, resource, row, rejected
        if resource == len(resources):
            return NO_ROOM, kept, resource, row, rejected
        resources[resource].attributes_at = first_row
        resources[resource].attributes_len = row - first_row
        at = start
        while at < resource_end:
            tag, at = read_tag(payload, at, resource_end)
            if tag != _RESOURCE_SPANS_SCOPE_SPANS:
                # Checked before, with its content.
                at = skip_field(source, at, resource_end, tag, IN_UNKNOWN, _DEPTH_OF_RESOURCE_SPANS)
                continue
            at, scope_end = read_content(payload, at, resource_end)
            while at < scope_end:
                tag, at = read_tag(payload, at, scope_end)
                if at >= 0 and tag != _SCOPE_SPANS_SPAN:
                    at = skip_field(
                        source, at, scope_end, tag, _IN_SCOPE_SPANS, _DEPTH_OF_SCOPE_SPANS
                    )
                elif at >= 0:
                    at, span_end = read_content(payload, at, scope_end)
                    if span_end < 0:
                        return span_end, kept, resource, row, rejected
                    if kept == len(spans_array) and span_end - at >= _SPAN_BYTES_MIN:
                        return NO_ROOM, kept, resource, row, rejected
                    span = row_at(spans, kept)
                    at, valid, row = _read_span(reader, at, span_end, span, row)
                    if valid:
                        span.resource = resource
                        kept += 1
                    else:
                        rejected += 1
                if at < 0:
                    return at, kept, resource, row, rejected
        resource += 1
    return at, kept, resource, row, rejected
