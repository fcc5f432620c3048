"""JSON that others wrote: its bounds are known before it is parsed, and every fault is one exception with a reason."""

from __future__ import annotations

import json
import math
import pickle
import time
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paddock.untrusted.content import UnusableContent
from paddock.untrusted.json_text import parse_json, parse_object

MIB = 1024 * 1024
REFUSED = {
    "nothing": (b"", "it is not JSON: Expecting value at line 1, column 1"),
    "a page": (b"<html>", "it is not JSON"),
    "UTF-16": ('{"a": 1}'.encode("utf-16"), "it is not UTF-8: byte 0"),
    "bad UTF-8": (b'{"a": "\xff"}', "it is not UTF-8: byte 7"),
    "a byte order mark": (b'\xef\xbb\xbf{"a": 1}', "it is not JSON"),
    "100,000 lists": (b"[" * 100_000, "nested deeper than 64 levels"),
    "100,000 lists that end": (b"[" * 100_000 + b"]" * 100_000, "nested deeper than 64 levels"),
    "100,000 objects": (b'{"a":' * 100_000, "nested deeper than 64 levels"),
    "one level too many, after strings with brackets": (b'["]]]]",' + b"[" * 64 + b"]" * 65, "64 levels"),
    "more lists than values may be": (b"[" + b"[]," * 300_000 + b"[]]", "more than 250000 lists and objects"),
    "too many values": (b"[" + b"1," * 600_000 + b"1]", "more than 500000 values"),
    "an infinite number": (b'{"requests": 1e999}', "requests: it has a number that is not finite"),
    "NaN": (b'{"a": [{"b": NaN}]}', "a.0.b: it has the number NaN"),
    "-Infinity": (b"[-Infinity]", "0: it has the number -Infinity"),
    "5,000 digits": (b'{"a": ' + b"9" * 5000 + b"}", "a: it has an integer beyond 64 bits"),
    "65 bits": (b'{"files": [{"size": 18446744073709551616}]}', "files.0.size: it has an integer beyond 64 bits"),
    "a lone surrogate": (b'{"a": "\\ud800"}', "a: it has a text with a NUL or a lone surrogate"),
    "a NUL": (b'{"a": ["\\u0000"]}', "a.0: it has a text with a NUL"),
    "a key with a lone surrogate": (b'{"\\udfff": 1}', "it has a key with a NUL or a lone surrogate"),
    "a key twice": (b'{"a": {"b": 1, "b": 2}}', "a.b: it has the key 'b' twice in one object"),
    "an infinite number alone": (b"1e999", "not finite"),
    "too large": (b'"' + b"a" * MIB + b'"', f"it is larger than {MIB} bytes"),
    "escapes without an end": (b'"' + b'\\"' * 400_000, "it is not JSON: Unterminated string"),
    "strings without an end": (b"[" * 65 + b'"' + b'\\"' * 400_000, "nested deeper than 64 levels"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_hostile_text_is_refused_at_once_with_its_reason(case: str) -> None:
    data, reason = REFUSED[case]
    began = time.monotonic()
    with pytest.raises(UnusableContent) as refused:
        parse_json(data, max_bytes=2 * MIB if "many" in case or "more" in case else MIB)
    assert time.monotonic() - began < 2
    assert reason in str(refused.value)
    assert refused.value.reason.startswith("it ")
    assert str(pickle.loads(pickle.dumps(refused.value))) == str(refused.value)


@pytest.mark.parametrize(
    "text",
    [
        '{"a": "\\ud83d\\ude00", "b": 18446744073709551615, "c": [-9223372036854775808, 1.5e300, null, true]}',
        json.dumps({"text": "{[" * 20_000 + '\\"\\\\'}),
        "[" * 64 + "]" * 64,
        "[" + ",".join(["[]"] * 1000) + "]",
        ' {"a": {}} ',
    ],
    ids=lambda text: text[:20],
)
def test_what_json_allows_is_parsed_as_python_does(text: str) -> None:
    assert parse_json(text, max_bytes=MIB) == json.loads(text) == parse_json(text.encode(), max_bytes=MIB)


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=20,
    )
)
def test_a_document_is_parsed_as_python_does_or_refused(value: Any) -> None:
    text = json.dumps(value)
    try:
        parsed = parse_json(text, max_bytes=MIB)
    except UnusableContent:
        return
    assert parsed == value


@given(st.binary(max_size=200) | st.text('[]{}":,\\0123456789.eEn', max_size=200).map(str.encode))
def test_any_bytes_are_parsed_or_refused(data: bytes) -> None:
    for strict in (True, False):
        with suppress(UnusableContent):
            parse_json(data, max_bytes=100, strict=strict)


def test_files_of_other_programs_may_say_what_parsers_differ_in() -> None:
    text = b'\xef\xbb\xbf{"a": 1, "a": 2, "big": 1000000000000000019884624838656, "no": NaN, "inf": [1e999]}'
    found = parse_object(text, max_bytes=MIB, strict=False)
    assert found == {"a": 2, "big": 1e30, "no": None, "inf": [None]}
    assert parse_json(b'"\\ud800"', max_bytes=MIB, strict=False) == "\ud800"
    assert math.isfinite(found["big"])


@pytest.mark.parametrize(
    ("text", "kind"), [("[]", "a list"), ("1", "a number"), ("null", "null"), ("true", "a truth value")]
)
def test_another_document_than_an_object_is_refused_by_its_kind(text: str, kind: str) -> None:
    with pytest.raises(UnusableContent, match=f"an object was expected, and it holds {kind}"):
        parse_object(text, max_bytes=MIB)
