"""Evaluations of feature flags that spans tell, as business events.

OpenFeature's hooks and those of vendors note in a span which flags were evaluated in it, as events
of that span: `feature_flag`, or `feature_flag.evaluation`. The decoder keeps each different one of
a request once, with its last time; here they become what an OTLP log event would have told.
Stateless; a few dozen a request at most, however many spans it has.
"""

import struct
from collections.abc import Iterator

from outcome_exporter import plan
from outcome_exporter.model import (
    FLAG_EVENT,
    FLAG_NAMES,
    AttributeType,
    BusinessEvent,
    Row,
    SpanBatch,
    Table,
)


def evaluations(batch: SpanBatch) -> Iterator[BusinessEvent]:
    """The evaluations in the spans of a request, of services that say their names."""
    for flag in batch.flags:
        resource = _values(batch, batch.attributes, batch.resources[flag["resource"]])
        service = resource.get(plan.SERVICE)
        if isinstance(service, str):
            told = _values(batch, batch.flag_attributes, flag)
            data = {FLAG_NAMES[key]: value for key, value in told.items()}
            time = int(flag["time"]) or None
            yield BusinessEvent(service, "", FLAG_EVENT, time, None, {"data": data})


def _values(batch: SpanBatch, attributes: Table, owner: Row) -> dict[int, object]:
    """The attributes of a row, by the number of their key; one that comes twice as it came last."""
    at = int(owner["attributes_at"])
    rows = attributes[at : at + int(owner["attributes_len"])]
    return {int(row["key"]): _value(batch, row) for row in rows}


def _value(batch: SpanBatch, row: Row) -> object:
    match AttributeType(int(row["type"])):
        case AttributeType.STRING:
            at = int(row["at"])
            return batch.payload[at : at + int(row["len"])].tobytes().decode()
        case AttributeType.BOOL:
            return bool(row["number"])
        case AttributeType.INT:
            return int(row["number"])
        case AttributeType.DOUBLE:
            return struct.unpack("<d", struct.pack("<q", int(row["number"])))[0]
        case AttributeType.BYTES:
            return None
