"""Attributes of spans, read in compiled code: as text, as a key, as money.

What has no exact text (a fraction, a list) is no key; what is no number at least 0 is no value.
"""

from typing import NamedTuple

import numpy as np

from outcome_exporter.kernels.hashing import SEED_HI, SEED_LO, hash_bytes, mix
from outcome_exporter.kernels.jit import kernel
from outcome_exporter.kernels.texts import NONE, TextArrays, intern
from outcome_exporter.model import NO_VALUE, AttributeType, Bytes, Table

NIL = -1
"""No such attribute."""

_MILLIONTHS = 1_000_000
_VALUE_MAX = 1_000_000_000_000
"""Units of a currency that one attempt may be worth; sums of them begin anew, see `sums`."""
_WEIGHT_MAX = 1 << 20
"""Attempts that one span may stand for: rarer sampling is a mistake, or an attack on the sums."""
TEXT = int(AttributeType.STRING)
_BOOL = int(AttributeType.BOOL)
_INT = int(AttributeType.INT)
_DOUBLE = int(AttributeType.DOUBLE)
_SEED_USER = np.uint64(0xA4093822299F31D0)

Place = tuple[Bytes, int, int]
"""A text: the bytes that hold it, where it begins and ends."""


class Batch(NamedTuple):
    """One request, as the decoder gives it."""

    payload: Bytes
    spans: Table
    resources: Table
    attributes: Table


@kernel
def attribute_of(batch: Batch, span: int, key: int) -> int:
    """Row of an attribute of a span, else of its resource; -1 where it has none."""
    if key < 0:
        return NIL
    at = np.int64(batch.spans[span].attributes_at)
    for row in range(at, at + np.int64(batch.spans[span].attributes_len)):
        if batch.attributes[row].key == key:
            return row
    return resource_attribute(batch, np.int64(batch.spans[span].resource), key)


@kernel
def resource_attribute(batch: Batch, resource: int, key: int) -> int:
    at = np.int64(batch.resources[resource].attributes_at)
    for row in range(at, at + np.int64(batch.resources[resource].attributes_len)):
        if batch.attributes[row].key == key:
            return row
    return NIL


@kernel
def digits(number: int, scratch: Bytes) -> int:
    """Writes an integer as text at the front of `scratch`; returns the length."""
    length = 0
    rest = np.uint64(-number) if number < 0 else np.uint64(number)
    while True:
        scratch[63 - length] = np.uint8(48) + np.uint8(rest % np.uint64(10))
        rest //= np.uint64(10)
        length += 1
        if rest == 0:
            break
    if number < 0:
        scratch[63 - length] = ord("-")
        length += 1
    for k in range(length):
        scratch[k] = scratch[64 - length + k]
    return length


@kernel
def text_of(batch: Batch, row: int, scratch: Bytes) -> tuple[Bytes, int, int]:
    """An attribute as text: (bytes, place, length). A fraction has none: its text is not exact."""
    attribute = batch.attributes[row]
    kind = attribute.type
    if kind == TEXT:
        return batch.payload, np.int64(attribute.at), np.int64(attribute.len)
    if kind == _INT:
        return scratch, 0, digits(attribute.number, scratch)
    if kind == _BOOL:
        word = b"true" if attribute.number else b"false"
        for k in range(len(word)):
            scratch[k] = word[k]
        return scratch, 0, len(word)
    if kind == _DOUBLE:
        number = np.int64(attribute.number).view(np.float64)
        if abs(number) < 2.0**53 and number == np.floor(number):
            return scratch, 0, digits(np.int64(number), scratch)
    return scratch, 0, 0


@kernel
def code_of(batch: Batch, row: int, texts: TextArrays, scratch: Bytes) -> int:
    if row < 0:
        return NONE
    source, at, length = text_of(batch, row, scratch)
    return intern(texts, source, at, length)


@kernel
def decimal(text: Bytes, at: int, end: int) -> int:
    """Millionths of a number written like 12 or 12.50; NO_VALUE where it is none."""
    whole = fraction = digits = 0
    scale = _MILLIONTHS
    after_point = False
    for k in range(at, end):
        symbol = text[k]
        if symbol == ord(".") and not after_point:
            after_point = True
        elif ord("0") <= symbol <= ord("9"):
            digits += 1
            if not after_point:
                whole = whole * 10 + (symbol - 48)
                if whole > _VALUE_MAX:
                    return NO_VALUE
            elif scale > 1:
                scale //= 10
                fraction += (symbol - 48) * scale
        else:
            return NO_VALUE
    return whole * _MILLIONTHS + fraction if digits else NO_VALUE


@kernel
def decimal_of_float(number: float) -> int:
    """Millionths of a number at least 0; NO_VALUE for any other."""
    if 0.0 <= number <= _VALUE_MAX:
        return np.int64(np.rint(number * _MILLIONTHS))
    return NO_VALUE


@kernel
def value_of(batch: Batch, row: int) -> int:
    """Millionths of an attribute that is a number at least 0; otherwise NO_VALUE."""
    if row < 0:
        return NO_VALUE
    attribute = batch.attributes[row]
    if attribute.type == TEXT:
        at = np.int64(attribute.at)
        return decimal(batch.payload, at, at + np.int64(attribute.len))
    if attribute.type == _INT and 0 <= attribute.number <= _VALUE_MAX:
        return attribute.number * _MILLIONTHS
    if attribute.type == _DOUBLE:
        return decimal_of_float(np.int64(attribute.number).view(np.float64))
    return NO_VALUE


@kernel
def key_of(batch: Batch, row: int, salt: np.uint64, scratch: Bytes) -> tuple[np.uint64, np.uint64]:
    """A join key as (hi, lo); 0, 0 where there is none."""
    if row < 0:
        return np.uint64(0), np.uint64(0)
    source, at, length = text_of(batch, row, scratch)
    return text_key(source, at, length, salt)


@kernel
def text_key(source: Bytes, at: int, length: int, salt: np.uint64) -> tuple[np.uint64, np.uint64]:
    """The join key of a text under a journey's rule; 0, 0 for the empty text."""
    if length == 0:
        return np.uint64(0), np.uint64(0)
    return (
        hash_bytes(source, at, length, SEED_HI ^ salt),
        hash_bytes(source, at, length, SEED_LO ^ salt),
    )


@kernel
def trace_key(hi: np.uint64, lo: np.uint64, salt: np.uint64) -> tuple[np.uint64, np.uint64]:
    """The join key of a trace id: a bijection for each salt, so that none is mistaken."""
    return mix(hi ^ salt), mix(lo ^ salt)


@kernel
def user_hash(source: Bytes, at: int, length: int) -> np.uint64:
    """The hash by which a user is counted; 0 for the empty text."""
    return hash_bytes(source, at, length, _SEED_USER) if length else np.uint64(0)


@kernel
def _hex(symbol: int) -> int:
    if ord("0") <= symbol <= ord("9"):
        return symbol - 48
    if ord("a") <= symbol <= ord("f"):
        return symbol - 87
    return -1


@kernel
def adjusted_count(text: Bytes, at: int, end: int) -> int:
    """Attempts that a sampled span stands for, in millionths, from its W3C tracestate.

    `ot=th:T` (up to 14 hex digits, trailing zeros left out) is the rejection threshold: the span
    stands for 2^56 / (2^56 - T), at most `_WEIGHT_MAX`. A threshold that is none counts as absent.

    Source:
        OpenTelemetry, "TraceState: Probability Sampling", threshold `th`.
    """
    k = at
    while k < end:
        begin = k
        while k < end and text[k] != ord(","):
            k += 1
        stop = k
        while begin < stop and text[begin] in (32, 9):
            begin += 1
        while begin < stop and text[stop - 1] in (32, 9):
            stop -= 1
        if stop - begin > 3 and (text[begin], text[begin + 1], text[begin + 2]) == (111, 116, 61):
            return _threshold(text, begin + 3, stop)  # ot=
        k += 1
    return _MILLIONTHS


@kernel
def _threshold(text: Bytes, at: int, end: int) -> int:
    k = at
    while k < end:
        begin = k
        while k < end and text[k] != ord(";"):
            k += 1
        if k - begin > 3 and (text[begin], text[begin + 1], text[begin + 2]) == (116, 104, 58):
            threshold = digits = 0  # th:
            for place in range(begin + 3, k):
                digit = _hex(text[place])
                if digit < 0 or digits == 14:
                    return _MILLIONTHS
                threshold = threshold * 16 + digit
                digits += 1
            threshold <<= 4 * (14 - digits)
            weight = min(2.0**56 / ((1 << 56) - threshold), _WEIGHT_MAX)
            return np.int64(np.rint(_MILLIONTHS * weight))
        k += 1
    return _MILLIONTHS
