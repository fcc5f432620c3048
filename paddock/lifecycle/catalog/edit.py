"""Add an entry to the text of a catalog, and change keys of one that is there.

A few characters are inserted or replaced; all others stay, so comments, order, quotes and line ends do. The result is
parsed again: an edit that would change anything else than what was asked for is refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from paddock.errors import BadCatalog
from paddock.lifecycle.catalog.check import check_catalog, decode
from paddock.lifecycle.catalog.entry import CatalogEntry, catalog_schema
from paddock.lifecycle.catalog.file import locked_for_editing, read_content, write_content
from paddock.lifecycle.catalog.stored_object import CatalogObject
from paddock.lifecycle.catalog.yaml_tree import Node, parse_yaml, plain_value
from paddock.model.reference import same_variant

SCHEMA_NAME: Final = "catalog.schema.json"
OBJECT_HEADER: Final = """\
# The models that Paddock keeps here. `paddock catalog add` adds one, and `paddock catalog check` checks this file.
"""
HEADER: Final = f"# yaml-language-server: $schema={SCHEMA_NAME}\n{OBJECT_HEADER}"
_PLAIN: Final = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._/+-]*[A-Za-z0-9_])?")
_BLANK_OR_COMMENT: Final = re.compile(r"[ ]*(?:#[^\r\n]*)?(?:\r\n|\n|\r|\Z)")
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"

Outcome = Literal["added", "updated", "unchanged"]


@dataclass(frozen=True, slots=True)
class CatalogEdit:
    """The text of a catalog after an edit, and the entry as it is in it. `notes` say what else was changed."""

    text: str
    outcome: Outcome
    entry: CatalogEntry
    notes: tuple[str, ...] = ()


def add_to_catalog(place: Path | CatalogObject, entry: CatalogEntry, given: Mapping[str, Any]) -> CatalogEdit:
    """Add an entry to the catalog at a place, which is made where it is missing. See `add_entry`.

    Raises BadCatalog where the catalog is not valid, and the errors of reading and writing it; StoreUnavailable where
    an object was changed at the same moment.
    """
    if isinstance(place, CatalogObject):
        return _add_to_object(place, entry, given)
    return add_to_file(place, entry, given)


def _add_to_object(place: CatalogObject, entry: CatalogEntry, given: Mapping[str, Any]) -> CatalogEdit:
    content, tag = place.read_with_tag()
    mark = _BYTE_ORDER_MARK if content.startswith(_BYTE_ORDER_MARK) else b""
    edit = add_entry(OBJECT_HEADER.encode() if tag is None else content, str(place), entry, given)
    if edit.outcome != "unchanged":
        place.replace(mark + edit.text.encode(), tag=tag)
    return edit


def add_to_file(path: Path, entry: CatalogEntry, given: Mapping[str, Any]) -> CatalogEdit:
    """Add an entry to a catalog's file, which is made where it is missing, with its schema beside it. See `add_entry`.

    Raises BadCatalog where the file is not valid, and the errors of reading and writing it.
    """
    with locked_for_editing(path):
        is_new = not path.exists()
        content = HEADER.encode() if is_new else read_content(path)
        mark = _BYTE_ORDER_MARK if content.startswith(_BYTE_ORDER_MARK) else b""
        edit = add_entry(content, str(path), entry, given)
        if edit.outcome != "unchanged":
            write_content(path, mark + edit.text.encode())
        schema = path.parent / SCHEMA_NAME
        if is_new and not schema.exists():
            write_content(schema, schema_text().encode())
    return edit


def schema_text() -> str:
    return json.dumps(catalog_schema(), indent=2) + "\n"


def add_entry(content: bytes, name: str, entry: CatalogEntry, given: Mapping[str, Any]) -> CatalogEdit:
    """Add an entry. Where there is one of the same model, channel, variant and target, set the keys that are `given`
    in it. Only one entry of a model stays the default one: the others lose `default: true`.

    Raises BadCatalog for a catalog that is not valid, or whose layout this cannot edit.
    """
    text, _ = decode(content)
    root, problems = parse_yaml(text)
    is_empty = (root is None or (root.is_null and not root.text)) and not problems
    checked = check_catalog(content, name)
    if checked.problems and not is_empty:
        raise checked.error()
    entries = list(checked.catalog.entries)
    nodes = [] if root is None else _items(root)
    edits, notes = _Edits(text), []
    if entry.default:
        for number, other in enumerate(entries):
            if other.default and other.key != entry.key and same_variant(str(other.model), str(entry.model)):
                edits.set_key(nodes[number], "default", False)
                entries[number] = other.model_copy(update={"default": False})
                notes.append(f"the entry in line {nodes[number].line} is no longer the default one of {other.model}")
    outcome: Outcome = "added"
    same = next((number for number, other in enumerate(entries) if other.key == entry.key), None)
    if same is not None:
        changed = {key: value for key, value in given.items() if getattr(entries[same], key) != value}
        outcome = "updated" if changed or notes else "unchanged"
        for key, value in changed.items():
            edits.set_key(nodes[same], key, value)
        entry = entries[same] = entries[same].model_copy(update=changed)
    else:
        edits.append_entry(root, {"model": str(entry.model), **given})
        entries.append(entry)
    edited = edits.apply()
    after = check_catalog(edited.encode(), name)
    if after.problems or list(after.catalog.entries) != entries:
        lines = "".join(f"\n{line}" for line in _block({"model": str(entry.model), **given}, "  "))
        raise BadCatalog(
            f"the catalog {name} is laid out in a way that is not edited automatically",
            cure=f"write the entry into it yourself:{lines}",
        )
    return CatalogEdit(edited, outcome, entry, tuple(notes))


def _items(root: Node) -> list[Node]:
    models = root.get("models")
    return models.items if models is not None else []


def _scalar(value: object) -> str:
    """A value as YAML: a text without quotes where every reader takes it for a text."""
    if isinstance(value, str) and _PLAIN.fullmatch(value) and isinstance(plain_value(value), str):
        return value
    return json.dumps(value, ensure_ascii=False)


def _block(keys: Mapping[str, Any], indent: str) -> list[str]:
    lines = [f"{key}: {_scalar(value)}" for key, value in keys.items()]
    return [f"{indent}- {lines[0]}", *(f"{indent}  {line}" for line in lines[1:])]


def _flow(keys: Mapping[str, Any]) -> str:
    return "{" + ", ".join(f"{key}: {_scalar(value)}" for key, value in keys.items()) + "}"


class _Edits:
    """Replacements in a text, which are applied together."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._newline = next((end for end in ("\r\n", "\n", "\r") if end in text), "\n")
        self._edits: list[tuple[int, int, str]] = []

    def apply(self) -> str:
        pieces, at = [], 0
        for start, end, new in sorted(
            self._edits, key=lambda edit: edit[:2]
        ):  # stable: those at one place stay in order
            pieces += [self._text[at:start], new]
            at = end
        return "".join([*pieces, self._text[at:]])

    def set_key(self, entry: Node, key: str, value: object) -> None:
        present = entry.get(key)
        if present is not None:
            self._edits.append((present.start, present.end, _scalar(value)))
            return
        first, last = entry.pairs[0][0], entry.pairs[-1][1]
        if entry.is_flow:
            self._edits.append((last.end, last.end, f", {key}: {_scalar(value)}"))
        else:
            self._insert_lines(self._line_end(last.content_end), [f"{' ' * (first.column - 1)}{key}: {_scalar(value)}"])

    def append_entry(self, root: Node | None, keys: Mapping[str, Any]) -> None:
        models = root.get("models") if root is not None else None
        if root is None or models is None:  # comments at most
            self._insert_lines(len(self._text), ["models:", *_block(keys, "  ")])
        elif models.is_flow and (models.items or root.is_flow or self._between(models).strip()):
            at = models.items[-1].end if models.items else models.end - 1
            self._edits.append((at, at, (", " if models.items else "") + _flow(keys)))
        elif models.items:
            dash, content = models.column - 1, models.items[-1].column - 1
            lines = _block(keys, " " * dash)
            if models.items[-1].line == models.line or content > dash + 1:
                lines = [line[: dash + 1] + " " * (content - dash - 1) + line[dash + 2 :] for line in lines]
            self._insert_lines(self._after_comments(self._line_end(models.content_end), dash), lines)
        else:
            key = next(name for name, _ in root.pairs if name.text == "models")
            colon = self._text.index(":", key.end) + 1
            end = max(models.end, colon)
            self._edits.append((colon, end, ""))
            indent = key.column - 1
            self._insert_lines(self._after_comments(self._line_end(end), indent), _block(keys, " " * (indent + 2)))

    def _between(self, models: Node) -> str:
        return self._text[models.start + 1 : models.end - 1]

    def _line_end(self, at: int) -> int:
        """The position after the line that `at` is in; a position at the beginning of a line is its own."""
        if at and self._text[at - 1] in "\r\n":
            return at
        found = re.compile(r"\r\n|\n|\r").search(self._text, at)
        return found.end() if found else len(self._text)

    def _after_comments(self, at: int, column: int) -> int:
        """The position after the comments from `at` on that are indented beyond `column`: they are about what is
        before them. Blank lines count where such a comment follows."""
        end = at
        while at < len(self._text):
            line = _BLANK_OR_COMMENT.match(self._text, at)
            if line is None or line.end() == at:
                break
            at = line.end()
            comment = line[0].lstrip(" ")
            if comment.startswith("#"):
                if len(line[0]) - len(comment) <= column:
                    break
                end = at
        return end

    def _insert_lines(self, at: int, lines: list[str]) -> None:
        new = "".join(f"{line}{self._newline}" for line in lines)
        if at and self._text[at - 1] not in "\r\n":
            new = self._newline + new.removesuffix(self._newline)
        self._edits.append((at, at, new))
