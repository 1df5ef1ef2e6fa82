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
        (b"", "not JSON: Expecting value at byte 0"),
        ('{"é": }'.encode(), "Expecting value at byte 7"),
        (b"[1] x", "Extra data at byte 4"),
        (b"[NaN]", "NaN is no number"),
        (b"[-Infinity]", "-Infinity is no number"),
        (b"[1e999]", "1e999 is out of range"),
        (b"[" + b"9" * 5_000 + b"]", "not JSON"),
        (b'"\xff"', "no UTF-8 at byte 1"),
        (rb'"\ud800"', "half of a surrogate pair"),
        (rb'{"\udc00": 1}', "half of a surrogate pair"),
        (b"[" * 100_000, "too many levels"),
        (b"[" * 100_000 + b"]" * 100_000, "too many levels"),
        (b"[[]" + b",[]" * 2_500_000 + b"]", "JSON with 5000002 values"),
        (b"\xef\xbb\xbf{}", "BOM"),
    ],
    ids=lambda value: repr(value[:20]) if isinstance(value, bytes) else None,
)
def test_what_is_no_sound_json_is_refused_with_a_reason(body, problem):
    with pytest.raises(DecodeError, match=problem):
        strict_json.loads(body)


def test_a_whole_surrogate_pair_is_one_character():
    assert strict_json.loads(rb'"\ud83d\ude00"') == "\U0001f600"


def test_nan_is_never_written():
    with pytest.raises(ValueError, match="not JSON compliant"):
        strict_json.dumps([math.nan])
