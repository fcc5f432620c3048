"""The catalog: every problem is found with its line, and each cure that is named works."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]  # it has no types
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from paddock.errors import BadCatalog, NoPermission, NoSuchFile
from paddock.lifecycle.catalog import (
    GATES,
    CatalogEntry,
    check_catalog,
    load_catalog,
    parse_catalog,
)
from paddock.lifecycle.catalog.check import MAX_BYTES
from paddock.lifecycle.catalog.edit import schema_text
from paddock.lifecycle.catalog.yaml_tree import parse_by_libyaml, parse_by_ruamel
from paddock.model.names import ModelName
from paddock.model.reference import Variant
from paddock.settings import Settings
from tests.support.pages import ROOT, code, rows, text_of

FULL = b"""\
models:
  - model: org/name-GGUF
    channel: v1.0
    variant: Q4_K_M
    target: 2x-rtx-4090+64GiB
    default: true
    context_tokens: 8192
    profile: roleplay
    required: true
    approval: true
    keep: 0
    gates: {decode: 0.9, kl_ratio: 2}
    undecided: block
  - model: org/name-GGUF
  - {model: gpt2, gates: }
"""


def problems(text: str | bytes) -> list[str]:
    content = text if isinstance(text, bytes) else text.encode()
    return [str(problem) for problem in check_catalog(content, "catalog.yaml").problems]


def entry(line: str) -> str:
    """A catalog whose entry has one more line, the third."""
    return f"models:\n  - model: org/name\n    {line}\n"


def test_each_key_of_an_entry_is_read() -> None:
    catalog = parse_catalog(FULL, "catalog.yaml")
    full, *bare = catalog.entries
    assert full == CatalogEntry(
        model=ModelName("org", "name-GGUF"),
        channel="v1.0",
        variant="Q4_K_M",
        target="2x-rtx-4090+64GiB",
        default=True,
        context_tokens=8192,
        profile="roleplay",
        required=True,
        approval=True,
        keep=0,
        gates={"decode": 0.9, "kl_ratio": 2.0},
        undecided="block",
    )
    assert bare == [CatalogEntry(model=ModelName("org", "name-GGUF")), CatalogEntry(model=ModelName(None, "gpt2"))]
    assert catalog.lines == (2, 14, 15)
    for one in catalog.entries:
        assert CatalogEntry.from_json(json.loads(json.dumps(one.to_json()))) == one


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("models:\n", id="no entries"),
        pytest.param("models: []\n", id="an empty list"),
        pytest.param("---\nmodels:\n- model: org/name\n...\n", id="with document marks"),
        pytest.param("%YAML 1.2\n---\nmodels: [{model: org/name}]\n", id="with a directive, in one line"),
        pytest.param("\ufeffmodels:\r\n  - model: 'org/name'\r\n", id="with a byte order mark and CRLF"),
        pytest.param("models:\r- model: org/name\r", id="with CR alone"),
        pytest.param("# übersicht\nmodels:\n  - model: org/name # 模型\n", id="comments in any language"),
        pytest.param(entry('channel: "2024-01-01"'), id="a quoted date"),
        pytest.param(entry("channel: 1.0.0"), id="a version that no reader takes for a number"),
        pytest.param(entry("channel: 0a1b2c3"), id="a commit that begins with a digit"),
        pytest.param(entry("variant: auto"), id="auto"),
        pytest.param(entry("default: True"), id="a truth value in capitals"),
        pytest.param(entry("gates: {decode: 1e-1, memory: .5}"), id="bounds in other forms"),
        pytest.param(entry("variant: Q8_0\n  - model: org/name\n    variant: Q4_K_M"), id="two variants"),
        pytest.param(entry("target: 64GiB\n  - model: org/name\n    target: 24GiB"), id="two targets"),
    ],
)
def test_a_valid_catalog_has_no_problem(text: str) -> None:
    assert problems(text) == []


COMMIT_OF_DIGITS = "12345678" * 5
BAD_VALUES = {
    "a truth value of YAML 1.1": ("default: Yes", "3, column 14: `default` is `Yes`, and true or false is expected"),
    "a number for a truth value": ("default: 1", "true or false is expected (write true)"),
    "a quoted truth value": ('default: "true"', "`default` is `true`, and true or false is expected"),
    "an octal number": ("keep: 010", "`keep` is `010`, and a whole number in decimal digits is expected"),
    "another octal number": ("keep: 0o10", "a whole number in decimal digits is expected"),
    "a number with an exponent": ("context_tokens: 1e4", "`context_tokens` is `1e4`, and a whole number"),
    "a number with underscores": ("context_tokens: 4_096", "a whole number in decimal digits is expected"),
    "a number in words": ("context_tokens: 8k", "a whole number in decimal digits is expected"),
    "too few tokens": ("context_tokens: 12", "`context_tokens` is `12`, and 256 or more is expected"),
    "too many tokens": ("context_tokens: 99999999", "1048576 or less is expected"),
    "a negative number": ("keep: -1", "0 or more is expected"),
    "a date for a text": ("channel: 2024-01-01", 'put it in quotes: `channel: "2024-01-01"`'),
    "a number for a text": ("channel: 1.5", 'put it in quotes: `channel: "1.5"`'),
    "a commit of digits": (f"channel: {COMMIT_OF_DIGITS}", f'put it in quotes: `channel: "{COMMIT_OF_DIGITS}"`'),
    "a number with an exponent for a text": ("channel: 1e5", "YAML may read as something else than text"),
    "a word that is a truth value": ("channel: on", 'put it in quotes: `channel: "on"`'),
    "a time": ("channel: 12:30", "YAML may read as something else than text"),
    "a list for a text": ("variant: [Q8_0]", "`variant` is a list, and a text is expected"),
    "a mapping for a number": ("keep: {a: 1}", "`keep` is a mapping, and a whole number"),
    "no value": ("keep:", "3, column 5: `keep` has no value"),
    "null": ("keep: ~", "3, column 11: `keep` has no value"),
    "a reserved variant": ("variant: latest", "`variant`: 'latest' is a reserved word"),
    "an unsafe variant": ("variant: ../x", "`variant`: the variant '../x' is not safe"),
    "an unsafe channel": ("channel: a..b", "`channel`: the revision 'a..b' is not a branch"),
    "an unknown target": ("target: rtx-1", "`target`: the target 'rtx-1' is not a known machine"),
    "an unknown profile": ("profile: chatt", "`profile` is `chatt`, and 'chat' or 'roleplay' is expected"),
    "an unknown key": ("contxt_tokens: 4096", "unknown key `contxt_tokens` (did you mean `context_tokens`?)"),
    "a key with a hyphen": ("context-tokens: 4096", "did you mean `context_tokens`?"),
    "a key like no other": ("zzz: 1", "unknown key `zzz` (use `model`, `channel`"),
    "an unknown gate": ("gates: {decod: 1}", "3, column 13: unknown gate `decod` (did you mean `decode`?)"),
    "a text for a bound": ("gates: {decode: fast}", "3, column 21: `gates.decode` is `fast`, and a number"),
    "a truth value for a bound": ("gates: {decode: true}", "`gates.decode` is `true`, and a number is expected"),
    "infinity for a bound": ("gates: {decode: .inf}", "`gates.decode` is `.inf`, and a number is expected"),
    "a negative bound": ("gates: {decode: -1}", "`gates.decode` is `-1`, and 0 or more is expected"),
    "an unknown choice": ("undecided: warn", "`undecided` is `warn`, and 'pass' or 'block' is expected"),
    "a list of gates": ("gates: [decode]", "`gates` is a list, and a mapping of gates to numbers is expected"),
    "a repeated key": ("keep: 1\n    keep: 2", "4, column 5: the key `keep` is here twice, first in line 3"),
    "a repeated gate": ("gates: {decode: 1, decode: 2}", "the key `decode` is here twice"),
    "a merge key": ("<<: {keep: 1}", "a merge key `<<`"),
    "an anchor": ("channel: &a main", "an anchor `&a`"),
    "a reference to nothing": ("channel: *a", "a reference `*a`"),
    "a tag": (
        "channel: !!python/object/apply:os.system [ls]",
        "a tag `tag:yaml.org,2002:python/object/apply:os.system`",
    ),
    "a list as a key": ("? [a]\n    : b", "a list or mapping in place of a key"),
    "a tab": ("keep: 1\n\tdefault: true", "4, column 1: a tab where YAML expects spaces"),
    "an open quote": ("channel: 'main", "it is not YAML: found unexpected end of stream"),
    "a text with a colon": ("channel: a: b", "it is not YAML: mapping values are not allowed here"),
    "a control character": ("channel: a\x00b", "line 3, column 15: a character that no YAML file may have"),
}


@pytest.mark.parametrize(("line", "expected"), BAD_VALUES.values(), ids=BAD_VALUES)
def test_a_bad_line_is_one_sentence_with_its_place(line: str, expected: str) -> None:
    found = problems(entry(line))
    assert expected in "; ".join(found)
    assert all(problem.startswith("line ") and "\n" not in problem for problem in found)


BAD_FILES: dict[str, tuple[str | bytes, str]] = {
    "empty": ("", "line 1, column 1: it is empty"),
    "comments alone": ("# models\n", "it is empty"),
    "a list at the top": ("- model: org/name\n", "line 1, column 1: the file holds a list (write `models:`"),
    "a text": ("org/name", "the file holds the text 'org/name'"),
    "another key": ("model:\n  - org/name\n", "unknown key `model` (did you mean `models`?)"),
    "no models": ("{}", "the key `models` is missing"),
    "a mapping of models": (
        "models:\n  org/name: {}\n",
        "line 2, column 3: `models` is a mapping, and a list is expected",
    ),
    "a name alone": ("models:\n  - org/name\n", "line 2, column 5: the entry is the text 'org/name'"),
    "an empty entry": ("models:\n  -\n", "the entry is empty, and a mapping is expected"),
    "an entry without a model": ("models:\n  - variant: Q8_0\n", "line 2, column 5: the entry has no `model`"),
    "a model as a user types it": ("models: [{model: org/name:Q8_0}]", "write `model: org/name`, `variant: Q8_0`"),
    "an unsafe model": ("models: [{model: ../../etc}]", "`model`: the model name '../../etc'"),
    "two documents": ("models: []\n---\nmodels: []\n", "line 2, column 1: a second document begins here"),
    "the same entry twice": (
        "models:\n- model: org/name\n- model: Org/Name\n  target: This-Machine\n",
        "line 3, column 3: the entry has the model, channel, variant and target of the one in line 2",
    ),
    "two defaults": (
        "models:\n- {model: org/name, default: true}\n- {model: ORG/name, variant: Q8_0, default: true}\n",
        "line 3, column 45: `default` is true for a second entry of ORG/name, after the one in line 2",
    ),
    "not UTF-8": (
        b"models:\n  - model: org/n\xe4me\n",
        "line 2, column 17: it is not UTF-8 text: there is a byte 0xe4",
    ),
    "UTF-16": ("models:".encode("utf-16"), "it is not UTF-8 text"),
    "too large": (b"#" * (MAX_BYTES + 1), "it is larger than 1 MiB"),
    "deep": ("models: " + "[" * 60_000, "it is nested deeper than 16 levels"),
    "deep in blocks": ("- " * 30_000, "it is nested deeper than 16 levels"),
    "an expansion of references": (
        "a: &a [x]\n"
        + "\n".join(f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join([f'*{chr(97 + n)}'] * 9)}]" for n in range(9)),
        "a reference `*a`",
    ),
}


@pytest.mark.parametrize(("content", "expected"), BAD_FILES.values(), ids=BAD_FILES)
def test_a_bad_file_is_one_sentence_with_its_place(content: str | bytes, expected: str) -> None:
    found = problems(content)
    assert expected in "; ".join(found)
    assert all(problem.startswith("line ") and "\n" not in problem for problem in found)


PIECES = [
    "*a",
    "&a ",
    "!!x ",
    "? ",
    ": ",
    "- ",
    "\t",
    "\r",
    "\n",
    "# ",
    "|\n",
    "'",
    '"',
    "{",
    "}",
    "[",
    "]",
    ",",
    "---\n",
    "<<: ",
    "\ufeff",
]


@given(st.lists(st.tuples(st.integers(0, len(FULL)), st.sampled_from(PIECES) | st.text(max_size=3)), max_size=5))
def test_no_text_makes_the_check_raise(insertions: list[tuple[int, str]]) -> None:
    text = FULL.decode()
    for at, piece in insertions:
        text = text[:at] + piece + text[at:]
    content = text.encode(errors="surrogatepass")
    lines = len(text.splitlines()) + 1
    for problem in check_catalog(content, "catalog.yaml").problems:
        assert 1 <= problem.line <= lines
        assert str(problem).isprintable()


@given(st.lists(st.tuples(st.integers(0, len(FULL)), st.sampled_from(PIECES) | st.text(max_size=3)), max_size=3))
def test_both_parsers_read_the_same(insertions: list[tuple[int, str]]) -> None:
    text = FULL.decode()
    for at, piece in insertions:
        text = text[:at] + piece + text[at:]
    fast = parse_by_libyaml(text)
    root, found = parse_by_ruamel(text)
    assert fast is None or found or fast == root


def test_all_problems_are_found_at_once_and_the_sound_entries_too() -> None:
    text = b"models:\n- {model: org/a, keep: x, zzz: 1}\n- model: org/b\n- {model: org/c, default: Yes}\nother: 1\n"
    checked = check_catalog(text, "catalog.yaml")
    assert [problem.line for problem in checked.problems] == [2, 2, 4, 5]
    assert [str(one.model) for one in checked.catalog.entries] == ["org/b"]
    with pytest.raises(
        BadCatalog, match=r"the catalog catalog.yaml has 4 problems: line 2, column 24: .*; line 5"
    ) as raised:
        parse_catalog(text, "catalog.yaml")
    copy = pickle.loads(pickle.dumps(raised.value))
    assert (str(copy), copy.problems) == (str(raised.value), raised.value.problems)


def test_a_long_list_of_problems_is_cut_in_the_message_alone() -> None:
    text = "models:\n" + "- zzz: 1\n" * 300
    with pytest.raises(BadCatalog, match=r"has 600 problems: .*; and 595 more") as raised:
        parse_catalog(text.encode(), "catalog.yaml")
    assert len(raised.value.problems) == 600
    assert len(str(raised.value)) < 2000


@pytest.mark.parametrize(
    ("model", "variant", "line"),
    [
        ("org/name", "Q8_0", 2),
        ("Org/Name", "q8_0", 2),
        ("org/name", "Q6_K", 4),
        ("org/other", "Q8_0", 5),
        ("org/other", "Q4_K_M", None),
        ("org/none", "Q8_0", None),
    ],
)
def test_a_variant_is_wished_for_by_name_or_by_auto(model: str, variant: str, line: int | None) -> None:
    catalog = parse_catalog(
        b"models:\n- {model: org/name, variant: Q8_0}\n- {model: org/name, variant: Q4_K_M}\n- {model: org/name}\n"
        b"- {model: org/other, variant: Q8_0}\n",
        "catalog.yaml",
    )
    wish = catalog.wish(ModelName.parse(model), Variant(variant))
    assert wish == (None if line is None else dict(zip(catalog.lines, catalog.entries, strict=True))[line])


# The file


def test_without_a_setting_the_default_file_need_not_exist(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_catalog(Settings()) is None
    (tmp_path / "infra").mkdir()
    (tmp_path / "infra" / "catalog.yaml").write_bytes(FULL)
    catalog = load_catalog(Settings())
    assert catalog is not None
    assert (catalog.name, len(catalog.entries)) == ("infra/catalog.yaml", 3)


def test_a_file_that_the_setting_names_has_to_exist(tmp_path: Path) -> None:
    with pytest.raises(NoSuchFile, match=f"there is no catalog {tmp_path}/catalog.yaml"):
        load_catalog(Settings(catalog=tmp_path / "catalog.yaml"))


def test_what_is_no_file_is_refused_without_waiting(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").write_text("")
    for name, reason in {
        "pipe": "is not a regular file",
        ".": "is a directory",
        "loop": "cannot be read",
        "file/catalog.yaml": "cannot be read",
    }.items():
        with pytest.raises((BadCatalog, NoSuchFile, NoPermission), match=reason):
            load_catalog(Settings(catalog=tmp_path / name))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "infra").mkdir()
    (tmp_path / "infra" / "catalog.yaml").symlink_to("nowhere")
    with pytest.raises(NoSuchFile):
        load_catalog(Settings())


# The schema


def schema() -> Any:
    return json.loads(schema_text())


def test_the_schema_in_the_repository_is_that_of_the_code() -> None:
    assert (ROOT / "infra" / "catalog.schema.json").read_text() == schema_text()


@pytest.mark.parametrize(
    "text", [FULL.decode(), "models:\n", *(entry(line) for line in ("keep: 3", "gates: {memory: 1}", "gates:"))]
)
def test_the_schema_accepts_what_the_check_accepts(text: str) -> None:
    jsonschema.validate(YAML(typ="safe").load(text), schema())
    assert problems(text) == []


@pytest.mark.parametrize(
    "line", ["default: Yes", "keep: -1", "zzz: 1", "profile: chatt", "gates: {decod: 1}", "context_tokens: 1.5"]
)
def test_the_schema_refuses_what_the_check_refuses(line: str) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(YAML(typ="safe").load(entry(line)), schema())
    assert problems(entry(line))


def test_the_example_in_the_repository_is_valid_also_with_its_comments_taken_away() -> None:
    text = (ROOT / "infra" / "catalog.yaml").read_text()
    assert parse_catalog(text.encode(), "catalog.yaml").entries == ()
    shown = "\n".join(
        line.replace("# ", "", 1) if line.startswith(("  # - ", "  #   ")) else line for line in text.splitlines()
    )
    assert len(parse_catalog(shown.encode(), "catalog.yaml").entries) == 3


def test_the_page_explains_each_key_and_gate() -> None:
    page = text_of("catalog.md")
    assert [code(cells[0]) for cells in rows(page)] == list(CatalogEntry.model_fields)
    assert all(f"`{gate}`" in page for gate in GATES)
