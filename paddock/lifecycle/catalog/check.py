"""Check a catalog, given as text: all of its problems at once, each with its line.

Where the text comes from is `paddock.lifecycle.catalog.file`'s concern: a file today.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, Final

from pydantic import ValidationError

from paddock.errors import BadCatalog, PaddockError
from paddock.lifecycle.catalog.entry import GATES, CatalogEntry, CatalogFile
from paddock.lifecycle.catalog.prices import read_prices
from paddock.lifecycle.catalog.yaml_tree import CatalogProblem, Node, NotText, parse_yaml, shown, value_of
from paddock.model.names import ModelName
from paddock.model.reference import Variant, same_variant

MAX_BYTES: Final = 1024 * 1024
"""Some 10,000 entries. Finding what is wrong with a larger file would take more than ten seconds."""
_IN_MESSAGE: Final = 5
_BYTE_ORDER_MARK: Final = "\ufeff"
_EXPECTED: Final = {
    "string_type": "a text is expected",
    "bool_type": "true or false is expected",
    "int_type": "a whole number in decimal digits is expected",
    "float_type": "a number is expected",
    "finite_number": "a number is expected",
    "dict_type": "a mapping of gates to numbers is expected",
}
_TRUTH: Final = {"yes": "true", "on": "true", "1": "true", "no": "false", "off": "false", "0": "false"}


@dataclass(frozen=True, slots=True)
class Catalog:
    """A valid catalog. `name` is that of its file; `lines` are the lines of the entries, from 1; `prices` are those of
    an hour, by target or work pool in lower case."""

    name: str
    entries: tuple[CatalogEntry, ...]
    lines: tuple[int, ...]
    prices: Mapping[str, float] = field(default_factory=dict)
    _by_model: Mapping[str, Sequence[CatalogEntry]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        by_model: dict[str, list[CatalogEntry]] = {}
        for entry in self.entries:
            by_model.setdefault(str(entry.model).casefold(), []).append(entry)
        object.__setattr__(self, "_by_model", by_model)  # the class is frozen

    @property
    def rows(self) -> list[tuple[CatalogEntry, int]]:
        """Each entry with its line."""
        return list(zip(self.entries, self.lines, strict=True))

    def wish(self, model: ModelName, variant: Variant) -> CatalogEntry | None:
        """The entry that wants a variant: one that names it, else one of the model with `auto`. Case does not count."""
        of_model = self._by_model.get(str(model).casefold(), ())
        named = (entry for entry in of_model if entry.wanted_variant and same_variant(entry.variant, variant))
        return next(named, None) or next((entry for entry in of_model if entry.wanted_variant is None), None)


@dataclass(frozen=True, slots=True)
class CheckedCatalog:
    """The sound entries of a catalog, and its problems in the order of their lines."""

    catalog: Catalog
    problems: tuple[CatalogProblem, ...]

    def error(self) -> BadCatalog:
        """The problems as one error. A long list is cut; the error's `problems` has all of them."""
        listed = "; ".join(map(str, self.problems[:_IN_MESSAGE]))
        if len(self.problems) > _IN_MESSAGE:
            listed += f"; and {len(self.problems) - _IN_MESSAGE} more"
        count = "a problem" if len(self.problems) == 1 else f"{len(self.problems)} problems"
        error = BadCatalog(
            f"the catalog {self.catalog.name} has {count}: {listed}",
            cure="correct the file; `paddock catalog check` lists its problems",
        )
        error.problems = self.problems
        return error


def parse_catalog(content: bytes, name: str) -> Catalog:
    """Parse a catalog; `name` is for messages. Raises BadCatalog with all problems."""
    checked = check_catalog(content, name)
    if checked.problems:
        raise checked.error()
    return checked.catalog


def check_catalog(content: bytes, name: str) -> CheckedCatalog:
    """Check the content of a catalog. Raises nothing."""
    text, problem = decode(content)
    if problem is not None:
        return CheckedCatalog(Catalog(name, (), ()), (problem,))
    root, problems = parse_yaml(text)
    checked = _Entries(problems)
    if root is not None and not (root.is_null and not root.text):
        checked.read_root(root)
    elif not problems:
        problems.append(CatalogProblem(1, 1, "it is empty", "write `models:` and a list, or run `paddock catalog add`"))
    entries = sorted(checked.entries, key=lambda found: found[0].start)
    lines = tuple(node.line for node, _ in entries)
    catalog = Catalog(name, tuple(entry for _, entry in entries), lines, checked.prices)
    return CheckedCatalog(catalog, tuple(sorted(problems, key=lambda problem: (problem.line, problem.column))))


def decode(content: bytes) -> tuple[str, CatalogProblem | None]:
    """(The text of a catalog without a byte order mark, the problem that makes it unreadable or None)."""
    if len(content) > MAX_BYTES:
        message = f"it is larger than {MAX_BYTES // 1024**2} MiB, which is not read"
        return "", CatalogProblem(1, 1, message, "split it, or check that it is the right file")
    try:
        text = content.decode("utf-8").removeprefix(_BYTE_ORDER_MARK)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        column = error.start - (content.rfind(b"\n", 0, error.start) + 1) + 1
        message = f"it is not UTF-8 text: there is a byte 0x{content[error.start]:02x}"
        return "", CatalogProblem(line, column, message, "save it as UTF-8")
    return text, None


class _Entries:
    """Collects the entries, each with its node, the prices, and the problems of a document."""

    def __init__(self, problems: list[CatalogProblem]) -> None:
        self.entries: list[tuple[Node, CatalogEntry]] = []
        self.prices: dict[str, float] = {}
        self._problems = problems

    def read_root(self, root: Node) -> None:
        if root.kind != "mapping":
            what = "a list" if root.kind == "list" else f"the text {shown(root.text)!r}"
            self._report(root, f"the file holds {what}", "write `models:` and below it a list of entries")
            return
        for key, _ in root.pairs:
            if key.kind == "scalar" and key.text not in CatalogFile.model_fields:
                self._report_unknown(key, "key", CatalogFile.model_fields)
        prices = root.get("prices")
        if prices is not None:
            self.prices = read_prices(prices, self._report)
        models = root.get("models")
        if models is None:
            self._report(root, "the key `models` is missing", "write `models:` and below it a list of entries")
        elif models.kind == "list":
            for item in models.items:
                self._read_entry(item)
            self._check_repetitions()
        elif not models.is_null:
            what = "a mapping" if models.kind == "mapping" else f"the text {shown(models.text)!r}"
            self._report(models, f"`models` is {what}, and a list is expected", "begin each entry with `- model:`")

    def _read_entry(self, item: Node) -> None:
        if item.kind != "mapping":
            what = "a list" if item.kind == "list" else f"the text {shown(item.text)!r}" if item.text else "empty"
            cure = f"write `- model: {shown(item.text)}`" if item.text else "write `- model: org/name`"
            self._report(item, f"the entry is {what}, and a mapping is expected", cure)
            return
        before = len(self._problems)
        given: dict[str, Any] = {}
        for key, value in item.pairs:
            if value.is_null and key.text in CatalogEntry.model_fields:
                if key.text != "gates":
                    self._report(value, f"`{key.text}` has no value", "write one, or remove the line")
            elif key.kind == "scalar":
                given.setdefault(key.text, value_of(value))
        if "model" not in given and item.get("model") is None:
            self._report(item, "the entry has no `model`", "write `model: org/name`")
        try:
            entry = CatalogEntry.model_validate(given)
        except ValidationError as error:
            pairs = {key.text: (key, value) for key, value in reversed(item.pairs)}
            for problem in error.errors(include_url=False):
                self._report_invalid(pairs, problem)
        else:
            if len(self._problems) == before:
                self.entries.append((item, entry))

    def _report_invalid(self, pairs: Mapping[str, tuple[Node, Node]], error: Mapping[str, Any]) -> None:
        """Report what pydantic found wrong with a key of an entry, whose pairs are given by the keys' names."""
        name, *inner = map(str, error["loc"])
        if error["type"] == "missing":  # reported before
            return
        key, value = pairs[name]
        if error["type"] == "extra_forbidden":
            self._report_unknown(key, "key", CatalogEntry.model_fields)
            return
        if name == "gates" and inner:
            gate, value = next(((gate, bound) for gate, bound in value.pairs if gate.text == inner[0]), (value, value))
            if inner[-1] == "[key]":
                self._report_unknown(gate, "gate", GATES)
                return
            name = f"gates.{shown(inner[0])}"
        raised = error.get("ctx", {}).get("error")
        if isinstance(raised, PaddockError):
            self._report(value, f"`{name}`: {raised.message}", raised.cure)
            return
        message, cure = _sentence(name, value, error)
        self._report(value, message, cure)

    def _check_repetitions(self) -> None:
        """Report entries that are there twice, and a second default of a model."""
        seen: dict[tuple[str, ...], Node] = {}
        for node, entry in list(self.entries):
            first = seen.setdefault(entry.key, node)
            if first is not node:
                self._report(
                    node,
                    f"the entry has the model, channel, variant and target of the one in line {first.line}",
                    "remove one of them, or give them other targets",
                )
            if entry.default:
                model = (str(entry.model).casefold(),)
                first = seen.setdefault(model, node)
                if first is not node:
                    self._report(
                        node.get("default") or node,
                        f"`default` is true for a second entry of {entry.model}, after the one in line {first.line}",
                        "leave it true in one of them",
                    )

    def _report_unknown(self, key: Node, what: str, known: Any) -> None:
        names = list(known)
        folded = key.text.casefold().replace("-", "_")
        close = get_close_matches(folded, names, n=1)
        cure = f"did you mean `{close[0]}`?" if close else f"use {', '.join(f'`{name}`' for name in names)}"
        self._report(key, f"unknown {what} `{shown(key.text)}`", cure)

    def _report(self, node: Node, message: str, cure: str = "") -> None:
        self._problems.append(CatalogProblem(node.line, node.column, message, cure))


def _sentence(name: str, value: Node, error: Mapping[str, Any]) -> tuple[str, str]:
    """(message, cure) for a value that pydantic refuses."""
    kind, context = error["type"], error.get("ctx", {})
    quoted = f"`{shown(value.text)}`" if value.kind == "scalar" else "a list" if value.kind == "list" else "a mapping"
    if kind in _EXPECTED:
        message, cure = f"`{name}` is {quoted}, and {_EXPECTED[kind]}", ""
        if kind == "string_type" and value.kind == "scalar":
            is_number = isinstance(error["input"], NotText | int | float)
            message = f"`{name}` is {quoted}, which YAML may read as something else than text" if is_number else message
            cure = f'put it in quotes: `{name}: "{shown(value.text)}"`'
        elif kind == "bool_type":
            cure = f"write {_TRUTH.get(value.text.lower(), 'true or false without quotes')}"
        elif kind in {"int_type", "float_type"}:
            cure = "write digits alone, such as 4096" if kind == "int_type" else "write a number such as 0.95"
        return message, cure
    if kind == "literal_error":
        return f"`{name}` is {quoted}, and {context['expected']} is expected", "write one of them"
    bounds = {"greater_than_equal": ("ge", "or more"), "less_than_equal": ("le", "or less")}
    if kind in bounds:
        key, words = bounds[kind]
        bound = str(context[key]).removesuffix(".0")
        return f"`{name}` is {quoted}, and {bound} {words} is expected", "correct the number"
    return f"`{name}` is {quoted}: {str(error['msg'])[:200]}", "correct it"
