"""Allowlists and blocklists for `ast_audit`: the Jinja constructs, names, filters and methods of chat templates.

The allowlists cover what real templates use, and harmless constructs like it. A construct or method that is not listed
has no use in a chat template, or gives access to more than a template should have.
"""

from __future__ import annotations

from jinja2 import nodes
from jinja2.sandbox import (
    UNSAFE_ASYNC_GENERATOR_ATTRIBUTES,
    UNSAFE_COROUTINE_ATTRIBUTES,
    UNSAFE_GENERATOR_ATTRIBUTES,
)


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


STATEMENTS = (
    nodes.Template, nodes.Output, nodes.TemplateData, nodes.If, nodes.For, nodes.Assign, nodes.AssignBlock, nodes.Macro,
    nodes.CallBlock, nodes.FilterBlock, nodes.With, nodes.Break, nodes.Continue, nodes.Keyword, nodes.Pair,
    nodes.Operand,
)  # fmt: skip
EXPRESSIONS = (
    nodes.Name, nodes.NSRef, nodes.Const, nodes.Tuple, nodes.List, nodes.Dict, nodes.CondExpr, nodes.Filter, nodes.Test,
    nodes.Call, nodes.Getattr, nodes.Getitem, nodes.Slice, nodes.Concat, nodes.Compare, nodes.BinExpr, nodes.UnaryExpr,
)  # fmt: skip
TEMPLATE_LOADING: dict[type[nodes.Node], str] = {
    nodes.Include: "include",
    nodes.Import: "import",
    nodes.FromImport: "from … import",
    nodes.Extends: "extends",
}
"""Statements that load another template."""

FORBIDDEN_NAMES = _names("self super lipsum cycler joiner _ gettext ngettext pgettext npgettext")
"""Names that Jinja defines in every template and that give access to its internals. A template may assign a variable
with such a name.
"""

FORBIDDEN_FILTERS = _names("attr xmlattr urlize pprint random filesizeformat")
FORBIDDEN_ATTRIBUTES = (
    UNSAFE_GENERATOR_ATTRIBUTES
    | UNSAFE_COROUTINE_ATTRIBUTES
    | UNSAFE_ASYNC_GENERATOR_ATTRIBUTES
    | _names("""
    mro func_globals func_code func_closure func_defaults im_class im_func im_self f_globals f_locals f_builtins f_back
    f_code tb_frame tb_next format_map
    """)
)
METHODS = _names("""
    capitalize casefold center count endswith expandtabs find format get index isalnum isalpha isascii isdecimal isdigit
    islower isnumeric isspace istitle isupper items join keys ljust lower lstrip partition removeprefix removesuffix
    replace rfind rindex rjust rpartition rsplit rstrip split splitlines startswith strip swapcase title upper values
    zfill copy bit_length cycle changed
""")
MUTATIONS = _names("append extend insert remove pop popitem update setdefault clear sort reverse add discard")
"""Mutating methods, which Jinja's immutable sandbox refuses at run time."""

ATTRIBUTE_FILTERS = _names("map selectattr rejectattr groupby sort unique sum min max join")
"""Filters with an argument that names an attribute or a filter."""

TEXT_BUILDING_FILTERS = _names("""
    join replace format string lower upper reverse trim capitalize title default d center indent truncate tojson safe e
    escape
""")
TEXT_BUILDING_METHODS = _names("""
    join replace format lower upper strip lstrip rstrip title capitalize swapcase removeprefix removesuffix casefold
    center zfill
""")
"""Methods that, like the filters above, build a new string from others."""
