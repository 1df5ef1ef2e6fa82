"""What the wire decoder must know of OTLP's trace schema to check the parts that it does not read.

Only length-delimited fields matter: a text must be UTF-8, a submessage is checked in turn, bytes
are opaque. A field of any other wire type is checked alike whether it is known or not. A field
that is not listed here is skipped, as the protobuf library skips what it does not know.

Written out rather than read from the installed descriptors, so that the same bytes get the same
verdict whatever version is installed; a test compares it with them.

Source:
    opentelemetry-proto 1.10 as in the package opentelemetry-proto 1.45.
"""

from enum import IntEnum
from typing import Final

import numpy as np
import numpy.typing as npt

from outcome_exporter.kernels.protobuf import DELIMITED, FIELD_NUMBERS, NOTED, OPAQUE, TEXT


class Message(IntEnum):
    """Messages that a trace request is made of: rows of `SCHEMA`."""

    REQUEST = 0
    RESOURCE_SPANS = 1
    RESOURCE = 2
    ENTITY_REF = 3
    SCOPE_SPANS = 4
    SCOPE = 5
    SPAN = 6
    EVENT = 7
    LINK = 8
    STATUS = 9
    KEY_VALUE = 10
    ANY_VALUE = 11
    ARRAY_VALUE = 12
    KEY_VALUE_LIST = 13


FIELDS: Final[dict[Message, dict[int, int]]] = {
    Message.REQUEST: {1: Message.RESOURCE_SPANS},
    Message.RESOURCE_SPANS: {1: Message.RESOURCE, 2: Message.SCOPE_SPANS, 3: TEXT},
    Message.RESOURCE: {1: Message.KEY_VALUE, 3: Message.ENTITY_REF},
    Message.ENTITY_REF: {1: TEXT, 2: TEXT, 3: TEXT, 4: TEXT},
    Message.SCOPE_SPANS: {1: Message.SCOPE, 2: Message.SPAN, 3: TEXT},
    Message.SCOPE: {1: TEXT, 2: TEXT, 3: Message.KEY_VALUE},
    Message.SPAN: {
        3: TEXT,
        5: TEXT,
        9: Message.KEY_VALUE,
        11: Message.EVENT,
        13: Message.LINK,
        15: Message.STATUS,
    },
    Message.EVENT: {2: TEXT, 3: Message.KEY_VALUE},
    Message.LINK: {3: TEXT, 4: Message.KEY_VALUE},
    Message.STATUS: {2: TEXT},
    Message.KEY_VALUE: {1: TEXT, 2: Message.ANY_VALUE},
    Message.ANY_VALUE: {1: TEXT, 5: Message.ARRAY_VALUE, 6: Message.KEY_VALUE_LIST},
    Message.ARRAY_VALUE: {1: Message.ANY_VALUE},
    Message.KEY_VALUE_LIST: {1: Message.KEY_VALUE},
}
"""Message → number of a length-delimited field → the message it holds, or TEXT."""

REQUEST_RESOURCE_SPANS: Final = 1 << 3 | DELIMITED
"""The tag that each resource of a request begins with."""

DEPTHS: Final[dict[Message, int]] = {
    Message.REQUEST: 0,
    Message.RESOURCE_SPANS: 1,
    Message.RESOURCE: 2,
    Message.SCOPE_SPANS: 2,
    Message.SPAN: 3,
    Message.EVENT: 4,
    Message.STATUS: 4,
}
"""How deep the messages that are read by hand are nested in a request."""

_EVENTS: Final = 11
"""Number of the field that holds a span's events: noted, for whoever looks for flags in them."""


def _table() -> npt.NDArray[np.int8]:
    table = np.full((len(Message), FIELD_NUMBERS), OPAQUE, np.int8)
    for message, fields in FIELDS.items():
        for number, content in fields.items():
            table[message, number] = content
    table[Message.SPAN, _EVENTS] += NOTED
    table.flags.writeable = False
    return table


SCHEMA: Final = _table()
"""What a length-delimited field holds: a `Message`, one that is NOTED, TEXT or OPAQUE.
Shape (messages, numbers)."""
