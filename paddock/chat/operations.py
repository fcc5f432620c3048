"""Effects of filters and methods on a value in a template, for `flow`, `dates`, `objects` and `cuts`.

A name that no set contains is an operation that keeps everything and may depend on anything.
"""

from __future__ import annotations


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


NUMBER_METHODS = _names("""
    count endswith find index isalnum isalpha isascii isdecimal isdigit islower isnumeric isspace istitle isupper rfind
    rindex startswith bit_length changed
""")
"""Methods that return a number or a truth value."""
SPLIT_METHODS = _names("split rsplit partition rpartition splitlines")
VIEW_METHODS = _names("items keys values")
ELEMENT_METHODS = _names("get pop setdefault popitem")
"""Methods that return an item of a container."""
TRIM_METHODS = _names("strip lstrip rstrip removeprefix removesuffix")
METHOD_NAMES = frozenset(
    name for kind in (str, list, dict, int, float, tuple, range) for name in dir(kind) if not name.startswith("_")
)
"""Methods of the values that a template handles. Without a call, one is printed as Python's description of it."""
FIELD_NAMES = (METHOD_NAMES - frozenset(dir(dict))) & _names("""
    title format index count center start stop step real imag partition find remove insert replace sort reverse split
    join encode
""")
"""Methods with the names of fields that a mapping may have, such as the title of a document."""
MAPPING_METHODS = frozenset(dir(dict)) & METHOD_NAMES - _names("items keys values")
"""Methods that a subscript gets from a mapping, and that are no fields of schemas."""

LENGTH_FILTERS = _names("length count wordcount")
NUMBER_FILTERS = LENGTH_FILTERS | _names("int float round abs")
ELEMENT_FILTERS = _names("first last min max random")
TEXT_FILTERS = _names("""
    string tojson join format e escape forceescape pprint urlencode truncate wordwrap center indent upper lower
    capitalize title trim replace safe striptags
""")
"""Filters that return text written from a value."""
GENERATOR_FILTERS = _names("map select reject selectattr rejectattr batch slice unique items reverse")
"""Filters that return a lazy sequence, at least for some values."""
PART_FILTERS = _names("""
    first last min max random list sort reverse batch slice unique truncate wordwrap select reject map sum striptags
    join
""")
"""Filters that take a string apart."""

WHOLE_FILTERS = _names("string upper lower capitalize title safe tojson e escape forceescape")
"""Filters that return a text of the same letters: it is empty only if the value is."""
DEFAULT_FILTERS = _names("default d")
EXISTENCE_TESTS = _names("defined undefined none string")
LOOP_ATTRIBUTES = _names("""
    index index0 first last length revindex revindex0 depth depth0 previtem nextitem
""")
