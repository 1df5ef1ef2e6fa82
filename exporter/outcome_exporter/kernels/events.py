"""Events as the stages compare them: identities, join keys, money and users, out of texts.

The texts of all events of a request lie one after the other in one array of bytes, so that a
request costs a few calls and not a dozen for each of its events. They are read as the attributes
of spans are, so that both sides meet.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from outcome_exporter.kernels.attributes import (
    decimal,
    decimal_of_float,
    text_key,
    trace_key,
    user_hash,
)
from outcome_exporter.kernels.hashing import SEED_HI, combine, hash_bytes
from outcome_exporter.kernels.jit import kernel
from outcome_exporter.model import JOIN_KEYS_MAX, Bytes, Table

VALUE = JOIN_KEYS_MAX
USER = JOIN_KEYS_MAX + 1
TEXTS = JOIN_KEYS_MAX + 2
"""Texts of what an event means to a journey: its keys, its value, its user."""


class Texts(NamedTuple):
    """Texts, one after the other."""

    bytes: Bytes
    ends: npt.NDArray[np.int64]
    """Where each ends, and the next begins; the first is empty."""


@kernel
def identities(texts: Texts, found: npt.NDArray[np.uint64]) -> None:
    """64-bit hash of what identifies each event: the text of its source and that of its id."""
    for i in range(found.size):
        source, between, end = texts.ends[2 * i], texts.ends[2 * i + 1], texts.ends[2 * i + 2]
        found[i] = combine(
            hash_bytes(texts.bytes, source, between - source, SEED_HI),
            hash_bytes(texts.bytes, between, end - between, SEED_HI),
        )


@kernel
def read(
    rows: Table,
    texts: Texts,
    numbers: npt.NDArray[np.float64],
    traces: npt.NDArray[np.uint64],
    by_trace: npt.NDArray[np.bool_],
    salts: npt.NDArray[np.uint64],
) -> None:
    """Writes keys, values and users.

    Args:
        rows: ATTEMPT or CLAIM, with their journeys; written.
        texts: `TEXTS` of each row.
        numbers: Shape (rows,): values that are fractions, NaN where the text is to be read.
        traces: Shape (rows, 2): trace id; 0, 0: none.
        by_trace: Shape (journeys, JOIN_KEYS_MAX): whether a key is the trace id.
        salts: Likewise: what makes a key that of one journey and rule.
    """
    for i in range(rows.size):
        row = rows[i]
        journey = np.int64(row.journey)
        ends = texts.ends[TEXTS * i : TEXTS * (i + 1) + 1]
        for k in range(JOIN_KEYS_MAX):
            salt = salts[journey, k]
            hi, lo = text_key(texts.bytes, ends[k], ends[k + 1] - ends[k], salt)
            if by_trace[journey, k] and (traces[i, 0] != 0 or traces[i, 1] != 0):
                hi, lo = trace_key(traces[i, 0], traces[i, 1], salt)
            row.keys[k, 0] = hi
            row.keys[k, 1] = lo
        if np.isnan(numbers[i]):
            row.value = decimal(texts.bytes, ends[VALUE], ends[VALUE + 1])
        else:
            row.value = decimal_of_float(numbers[i])
        row.user = user_hash(texts.bytes, ends[USER], ends[USER + 1] - ends[USER])
