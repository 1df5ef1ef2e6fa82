"""JSON as strangers send it: read strictly, and within bounds.

`json.loads` would accept NaN, overflow to infinity, and let lone surrogates through, which blow up
much later, where a text is first encoded. msgspec refuses all three, keeps integers of any length
exact, and reads three times as fast. Any parser turns a few bytes into many objects: 64 MiB of
``[[],[],…`` become more than a gigabyte. So the number of values is bounded before anything is
parsed, by counting the three bytes that can begin one: `{`, `[` and `,` (those inside strings are
counted too, which only makes the bound stricter). Linear in the body, all of it in C.
"""

import json

import msgspec

from outcome_exporter.errors import DecodeError

Json = dict[str, "Json"] | list["Json"] | str | int | float | bool | None

VALUES_MAX = 4_000_000
"""Values in one document: some 300 MB of objects. OTLP/JSON has one in about 14 bytes."""

_decoder = msgspec.json.Decoder()


def loads(body: bytes) -> Json:
    """The value of a JSON document in UTF-8; numbers are finite, texts can be encoded.

    Raises:
        DecodeError: It is not such a document, or has too many values or levels.
    """
    # Each of them takes a byte.
    if len(body) > VALUES_MAX and (values := _values(body)) > VALUES_MAX:
        raise DecodeError(f"JSON with {values} values; send at most {VALUES_MAX} in one request")
    try:
        value: Json = _decoder.decode(body)
    except msgspec.DecodeError as error:
        why = str(error).removeprefix("JSON is malformed: ")
        raise DecodeError(f"not JSON: {why}") from None
    except RecursionError:
        raise DecodeError("JSON with too many levels; flatten it") from None
    return value


def _values(body: bytes) -> int:
    """At least as many as there are."""
    return body.count(b"{") + body.count(b"[") + body.count(b",")


def dumps(value: object) -> bytes:
    """The shortest JSON in UTF-8 that `loads` reads back as an equal value."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
