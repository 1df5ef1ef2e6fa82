import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outcome_exporter import strict_json
from outcome_exporter.errors import DecodeError

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(alphabet="abé.\n"), inner),
    max_leaves=20,
)


@given(JSON)
def test_what_is_written_is_read_again(value):
    assert strict_json.loads(strict_json.dumps(value)) == value


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b"", "not JSON: Input data was truncated"),
        ('{"é": }'.encode(), "not JSON: invalid character .byte 7"),
        (b"[1] x", "not JSON: trailing characters"),
        (b"[NaN]", "invalid character .byte 1"),
        (b"[-Infinity]", "invalid character .byte 2"),
        (b"[1e999]", r"Number out of range - at `\$\[0\]`"),
        (b"[01]", "invalid number"),
        (b"[1,]", "trailing comma"),
        (b'"\n"', "invalid character"),
        (b"[" + b"9" * 5_000 + b"]", "not JSON"),
        (b'"\xff"', "Invalid UTF-8"),
        (rb'"\ud800"', "not JSON"),
        (rb'"\ud800 and more"', "surrogate"),
        (rb'{"\udc00": 1}', "surrogate"),
        (b"[" * 100_000, "too many levels"),
        (b"[" * 100_000 + b"]" * 100_000, "too many levels"),
        (b"[[]" + b",[]" * 2_500_000 + b"]", "JSON with 5000002 values"),
        (b"\xef\xbb\xbf{}", "invalid character .byte 0"),
    ],
    ids=lambda value: repr(value[:20]) if isinstance(value, bytes) else None,
)
def test_what_is_no_sound_json_is_refused_with_a_reason(body, problem):
    with pytest.raises(DecodeError, match=problem):
        strict_json.loads(body)


@given(JSON, st.booleans())
def test_what_the_standard_library_writes_is_read_as_it_reads_it(value, ascii_only):
    text = json.dumps(value, ensure_ascii=ascii_only)
    assert repr(strict_json.loads(text.encode())) == repr(json.loads(text))


@given(
    st.from_regex(r"-?(0|[1-9][0-9]{0,40})(\.[0-9]{1,40})?([eE][-+]?[0-9]{1,3})?", fullmatch=True)
)
def test_a_number_is_the_nearest_there_is(text):
    number = json.loads(text)
    if isinstance(number, float) and math.isinf(number):
        with pytest.raises(DecodeError, match="out of range"):
            strict_json.loads(text.encode())
    else:
        assert repr(strict_json.loads(text.encode())) == repr(number)


def test_a_whole_surrogate_pair_is_one_character():
    assert strict_json.loads(rb'"\ud83d\ude00"') == "\U0001f600"


def test_nan_is_never_written():
    with pytest.raises(ValueError, match="not JSON compliant"):
        strict_json.dumps([math.nan])
