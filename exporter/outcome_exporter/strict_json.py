"""JSON as strangers send it: read strictly, and within bounds.

`json.loads` alone accepts NaN, overflows to infinity, lets lone surrogates through (they blow up
much later, where a text is first encoded), and turns a few bytes into many objects: 64 MiB of
``[[],[],…`` become more than a gigabyte. So the number of values is bounded before anything is
parsed, by counting the three bytes that can begin one: `{`, `[` and `,` (those inside strings are
counted too, which only makes the bound stricter). Linear in the body, most of it in C.
"""

import json
import math
import re
from typing import NoReturn

from outcome_exporter.errors import DecodeError

Json = dict[str, "Json"] | list["Json"] | str | int | float | bool | None

VALUES_MAX = 4_000_000
"""Values in one document: some 300 MB of objects. OTLP/JSON has one in about 14 bytes."""

_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def loads(body: bytes) -> Json:
    """The value of a JSON document in UTF-8; numbers are finite, texts can be encoded.

    Raises:
        DecodeError: It is not such a document, or has too many values or levels.
    """
    values = body.count(b"{") + body.count(b"[") + body.count(b",")
    if values > VALUES_MAX:
        raise DecodeError(f"JSON with {values} values; send at most {VALUES_MAX} in one request")
    try:
        value: Json = json.loads(body.decode(), parse_float=_finite, parse_constant=_refuse)
        if _SURROGATE.search(body):
            dumps(value)
    except json.JSONDecodeError as error:
        raise DecodeError(
            f"not JSON: {error.msg}", offset=len(error.doc[: error.pos].encode())
        ) from None
    except UnicodeDecodeError as error:
        raise DecodeError("not JSON: no UTF-8", offset=error.start) from None
    except UnicodeEncodeError:
        raise DecodeError("not JSON: half of a surrogate pair in a string") from None
    except RecursionError:
        raise DecodeError("JSON with too many levels; flatten it") from None
    except ValueError as error:  # a number with thousands of digits, or none at all
        raise DecodeError(f"not JSON: {error}") from None
    return value


def dumps(value: object) -> bytes:
    """The shortest JSON in UTF-8 that `loads` reads back as an equal value."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{text[:20]} is out of range")
    return number


def _refuse(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number")
