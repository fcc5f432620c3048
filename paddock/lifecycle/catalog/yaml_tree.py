"""Parse the YAML of a catalog into nodes with their positions, and nothing else: no objects, no tags, no references.

A node keeps where it stands in the text, so that an error names a line, and an edit changes a few characters and leaves
all others as they are. YAML that readers disagree about, or that a list of settings has no use for, is refused: tags,
anchors and references, merge keys, repeated keys, several documents, and deep nesting.
"""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass, field
from typing import Any, Final, Literal

MAX_DEPTH: Final = 16
_INTEGER: Final = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,17})")
_FLOAT: Final = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,17})?\.?[0-9]{0,17}(?:[eE][-+]?[0-9]{1,3})?")
_DATE: Final = re.compile(r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}(?:[Tt ].*)?")
_NUMBER_OF_OTHER_READERS: Final = re.compile(
    r"[-+]?(?:0o[0-7_]+|0x[0-9a-f_]+|0b[01_]+|[0-9][0-9_]*(?:\.[0-9_]*)?(?:e[-+]?[0-9]+)?"
    r"|[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?|\.(?:inf|nan))",
    re.IGNORECASE,
)
_READ_DIFFERENTLY: Final = re.compile("[\t\x85\u2028\u2029\ufeff]")
"""Characters that are an indentation, the end of a line or no character for one of the two parsers alone."""
_WORDS: Final = {"yes", "no", "on", "off"}

Kind = Literal["mapping", "list", "scalar"]


@dataclass(frozen=True, slots=True)
class CatalogProblem:
    """A problem of a catalog. `line` and `column` count from 1. `cure` may be empty."""

    line: int
    column: int
    message: str
    cure: str = ""

    def __str__(self) -> str:
        return f"line {self.line}, column {self.column}: {self.message}{f' ({self.cure})' if self.cure else ''}"

    def to_json(self) -> dict[str, int | str]:
        return {"line": self.line, "column": self.column, "message": self.message, "cure": self.cure}


@dataclass(slots=True)
class Node:
    """A part of the document. `start` and `end` are positions in the text from 0, `end` exclusive; `line` and `column`
    count from 1. `text` is that of a scalar, `items` are those of a list, `pairs` (key, value) those of a mapping."""

    kind: Kind
    start: int
    end: int
    line: int
    column: int
    text: str = ""
    is_plain: bool = False
    is_flow: bool = False
    items: list[Node] = field(default_factory=list)
    pairs: list[tuple[Node, Node]] = field(default_factory=list)

    def get(self, key: str) -> Node | None:
        return next((value for name, value in self.pairs if name.text == key), None)

    @property
    def is_null(self) -> bool:
        return self.is_plain and self.text in {"", "~", "null", "Null", "NULL"}

    @property
    def content_end(self) -> int:
        """Where its last character ends. The end of a block mapping or list is after the comments that follow it."""
        node = self
        while not node.is_flow and (node.items or node.pairs):
            node = node.items[-1] if node.items else node.pairs[-1][1]
        return node.end


class NotText:
    """A plain scalar that some readers of YAML take for a number, a date or a truth value, and others for a text."""


def value_of(node: Node) -> Any:
    """The value of a node, for validation: dict, list, str, int, float, bool, None or NotText."""
    if node.kind == "mapping":
        return {key.text: value_of(value) for key, value in node.pairs}
    if node.kind == "list":
        return [value_of(item) for item in node.items]
    return plain_value(node.text) if node.is_plain else node.text


def plain_value(text: str) -> Any:
    """The value of a scalar without quotes, by the core schema of YAML 1.2 where every reader agrees with it."""
    if text in {"", "~", "null", "Null", "NULL"}:
        return None
    if text.lower() in {"true", "false"}:
        return text.lower() == "true"
    if _INTEGER.fullmatch(text):
        return int(text)
    if any(digit.isdigit() for digit in text) and _FLOAT.fullmatch(text):
        return float(text)
    if text.lower() in _WORDS or _DATE.fullmatch(text) or _NUMBER_OF_OTHER_READERS.fullmatch(text):
        return NotText()
    return text


def parse_yaml(text: str) -> tuple[Node | None, list[CatalogProblem]]:
    """(The root, the problems in the order of their lines); no root where the text is not YAML, or has no content.

    libyaml parses a sound text, in a thirtieth of the time. ruamel.yaml decides about all others: it reads YAML 1.2,
    and says better what is wrong.
    """
    root = parse_by_libyaml(text)
    return (root, []) if root is not None else parse_by_ruamel(text)


def parse_by_libyaml(text: str) -> Node | None:
    """The root of a text without problems; None where libyaml is not there, or where ruamel.yaml is to decide."""
    import yaml

    if _READ_DIFFERENTLY.search(text) or not hasattr(yaml, "CSafeLoader"):
        return None
    builder = _Builder()
    try:
        for event in yaml.parse(text, Loader=yaml.CSafeLoader):
            if not builder.add(event):
                return None
    except (yaml.YAMLError, UnicodeEncodeError):
        return None
    return None if builder.problems else builder.root


def parse_by_ruamel(text: str) -> tuple[Node | None, list[CatalogProblem]]:
    """As `parse_yaml`."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    builder = _Builder()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on directives, which have no effect here
            for event in YAML(typ="safe", pure=True).parse(text):
                if not builder.add(event):
                    break
    except MarkedYAMLError as error:
        builder.problems.append(_syntax_problem(error))
        return None, builder.problems
    except YAMLError as error:
        line, column = position(text, getattr(error, "position", 0))
        message = "a character that no YAML file may have: a control character, or half of a surrogate pair"
        builder.problems.append(CatalogProblem(line, column, message, "remove it"))
        return None, builder.problems
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:  # ruamel.yaml's own, on broken input
        builder.problems.append(CatalogProblem(1, 1, f"it is not YAML that can be read: {str(error)[:120]}"))
        return None, builder.problems
    return builder.root, builder.problems


def position(text: str, index: int) -> tuple[int, int]:
    """(line, column) of a position in a text, from 1."""
    before = text[:index].replace("\r\n", "\n").replace("\r", "\n")
    return before.count("\n") + 1, len(before) - before.rfind("\n")


def _syntax_problem(error: Any) -> CatalogProblem:
    """The problem of a syntax error of ruamel.yaml. The mark of the problem itself is the more exact one."""
    mark = error.problem_mark or error.context_mark
    reason = " ".join(str(error.problem or error.context or "it is not YAML").split())[:200]
    line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
    if "'\\t'" in reason:
        return CatalogProblem(line, column, "a tab where YAML expects spaces", "indent with spaces")
    cure = ""
    if "mapping values are not allowed" in reason:
        cure = "put a text that holds `: ` in quotes, and indent the keys of an entry alike"
    return CatalogProblem(line, column, f"it is not YAML: {reason}", cure)


class _Builder:
    """Builds the tree from the parser's events, without recursion. `add` returns whether to go on."""

    def __init__(self) -> None:
        self.root: Node | None = None
        self.problems: list[CatalogProblem] = []
        self._open: list[Node] = []
        self._keys: list[Node | None] = []  # of each open mapping: the key that waits for its value
        self._names: list[dict[str, Node]] = []  # of each open mapping: its keys
        self._documents = 0

    def add(self, event: Any) -> bool:
        kind = type(event).__name__
        if kind == "DocumentStartEvent":
            self._documents += 1
            if self._documents > 1:
                self._report(event, "a second document begins here", "keep one document: remove the line `---`")
                return False
        elif kind == "AliasEvent":
            self._report(event, f"a reference `*{event.anchor}`", "write the value itself")
            self._place(self._node(event, "scalar"))
        elif kind == "ScalarEvent":
            self._refuse_anchor_and_tag(event)
            node = self._node(event, "scalar")
            node.text, node.is_plain = event.value, event.style is None or event.style == ""
            self._place(node)
        elif kind in {"MappingStartEvent", "SequenceStartEvent"}:
            self._refuse_anchor_and_tag(event)
            node = self._node(event, "mapping" if kind == "MappingStartEvent" else "list")
            node.is_flow = bool(event.flow_style)
            if len(self._open) == MAX_DEPTH:
                self._report(
                    event, f"it is nested deeper than {MAX_DEPTH} levels", "see docs/catalog.md for the format"
                )
                return False
            self._open.append(node)
            self._keys.append(None)
            self._names.append({})
        elif kind in {"MappingEndEvent", "SequenceEndEvent"}:
            node = self._open.pop()
            self._keys.pop()
            self._names.pop()
            node.end = event.end_mark.index
            self._place(node)
        return True

    def _place(self, node: Node) -> None:
        if not self._open:
            self.root = node
            return
        parent = self._open[-1]
        if parent.kind == "list":
            parent.items.append(node)
        elif self._keys[-1] is None:
            self._keys[-1] = node
        else:
            key = self._keys[-1]
            self._keys[-1] = None
            if node.is_plain and not node.text:  # no value: the parser's mark is where the next token begins
                node.start = node.end = key.end
                node.line, node.column = key.line, key.column
            parent.pairs.append((key, node))
            self._check_key(key, self._names[-1])

    def _check_key(self, key: Node, names: dict[str, Node]) -> None:
        """Check the key of a mapping that has `names` so far."""
        if key.kind != "scalar":
            self._report_node(key, "a list or mapping in place of a key", "write the key's name")
        elif key.text == "<<" and key.is_plain:
            self._report_node(key, "a merge key `<<`", "write the keys themselves")
        else:
            first = names.setdefault(key.text, key)
            if first is not key:
                self._report_node(
                    key, f"the key `{shown(key.text)}` is here twice, first in line {first.line}", "remove one of them"
                )

    def _refuse_anchor_and_tag(self, event: Any) -> None:
        if event.anchor:
            self._report(
                event, f"an anchor `&{shown(event.anchor)}`", "remove it, and write each value where it is used"
            )
        if event.tag is not None:
            self._report(event, f"a tag `{shown(str(event.tag))}`", "remove it")

    @staticmethod
    def _node(event: Any, kind: Kind) -> Node:
        start, end = event.start_mark, event.end_mark
        return Node(kind, start.index, end.index, start.line + 1, start.column + 1)

    def _report(self, event: Any, message: str, cure: str) -> None:
        self.problems.append(CatalogProblem(event.start_mark.line + 1, event.start_mark.column + 1, message, cure))

    def _report_node(self, node: Node, message: str, cure: str) -> None:
        self.problems.append(CatalogProblem(node.line, node.column, message, cure))


def shown(text: str) -> str:
    """A text of the file for a message: short, and on one line."""
    text = text if len(text) <= 60 else f"{text[:57]}..."
    return text if text.isprintable() else ascii(text)[1:-1]
