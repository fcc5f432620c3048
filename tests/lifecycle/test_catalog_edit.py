"""Entries are added to a catalog and changed in it, and everything else in the file stays as it is."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paddock.errors import BadCatalog, NoPermission
from paddock.lifecycle.catalog import CatalogEntry, parse_catalog
from paddock.lifecycle.catalog.edit import SCHEMA_NAME, CatalogEdit, add_entry, add_to_file, schema_text
from paddock.model.names import ModelName
from tests.support.program import Paddock, paddock

__all__ = ["paddock"]

OTHER = {"model": "org/other", "variant": "Q8_0"}


def add(text: str, model: str, **given: Any) -> CatalogEdit:
    wanted = CatalogEntry(model=ModelName.parse(model), **given)
    return add_entry(text.encode(), "catalog.yaml", wanted, given)


# file before, file after adding OTHER
LAYOUTS = {
    "empty": ("", "models:\n  - model: org/other\n    variant: Q8_0\n"),
    "comments alone": ("# ours", "# ours\nmodels:\n  - model: org/other\n    variant: Q8_0"),
    "no entries": ("models:  # ours\n", "models:  # ours\n  - model: org/other\n    variant: Q8_0\n"),
    "an empty list": ("models: [] # ours\n", "models: # ours\n  - model: org/other\n    variant: Q8_0\n"),
    "null": ("models: ~\nx: 1\n".replace("x: 1\n", ""), "models:\n  - model: org/other\n    variant: Q8_0\n"),
    "entries in comments": (
        "models:\n  # - model: org/a\n\n  #   keep: 1\n# end\n",
        "models:\n  # - model: org/a\n\n  #   keep: 1\n  - model: org/other\n    variant: Q8_0\n# end\n",
    ),
    "a comment below the last entry": (
        "models:\n- model: org/a # ours\n  # keep: 3\n\n# end\n",
        "models:\n- model: org/a # ours\n  # keep: 3\n- model: org/other\n  variant: Q8_0\n\n# end\n",
    ),
    "wide indentation, and CRLF": (
        "models:\r\n    -   model: org/a\r\n        keep: 1\r\n",
        "models:\r\n    -   model: org/a\r\n        keep: 1\r\n    -   model: org/other\r\n        variant: Q8_0\r\n",
    ),
    "dashes on lines of their own": (
        "models:\n  -\n    model: org/a\n",
        "models:\n  -\n    model: org/a\n  - model: org/other\n    variant: Q8_0\n",
    ),
    "no newline at the end": (
        "models:\n  - model: org/a",
        "models:\n  - model: org/a\n  - model: org/other\n    variant: Q8_0",
    ),
    "a document's end": (
        "---\nmodels:\n  - model: org/a\n...\n# after\n",
        "---\nmodels:\n  - model: org/a\n  - model: org/other\n    variant: Q8_0\n...\n# after\n",
    ),
    "one line": (
        "models: [{model: org/a}, ] # ours\n",
        "models: [{model: org/a}, {model: org/other, variant: Q8_0}, ] # ours\n",
    ),
    "one line, no entries": ("{models: []}", "{models: [{model: org/other, variant: Q8_0}]}"),
    "brackets with a comment": (
        "models: [ # ours\n]\n",
        "models: [ # ours\n{model: org/other, variant: Q8_0}]\n",
    ),
    "an entry in braces": (
        "models:\n  - {model: org/a} # ours\n",
        "models:\n  - {model: org/a} # ours\n  - model: org/other\n    variant: Q8_0\n",
    ),
}


@pytest.mark.parametrize(("before", "after"), LAYOUTS.values(), ids=LAYOUTS)
def test_an_entry_is_added_in_the_layout_of_the_file(before: str, after: str) -> None:
    edit = add(before, "org/other", variant="Q8_0")
    assert (edit.outcome, edit.text) == ("added", after)
    assert add(after, "org/other", variant="Q8_0") == CatalogEdit(after, "unchanged", edit.entry)


def test_a_key_of_an_entry_is_replaced_or_appended() -> None:
    before = "models:\n  - model: org/a\n    keep: 1  # few\n    gates:\n      decode: 0.9 # ours\n  - {model: org/b}\n"
    edit = add(before, "org/a", keep=2, context_tokens=4096)
    assert edit.outcome == "updated"
    assert edit.text == (
        "models:\n  - model: org/a\n    keep: 2  # few\n    gates:\n      decode: 0.9 # ours\n"
        "    context_tokens: 4096\n  - {model: org/b}\n"
    )
    assert edit.entry.gates == {"decode": 0.9}
    assert add(before, "Org/B", keep=0).text == before.replace("{model: org/b}", "{model: org/b, keep: 0}")
    assert add(before, "org/a").outcome == "unchanged"


def test_the_default_moves_from_another_entry_of_the_model() -> None:
    before = "models:\n- {model: org/a, default: true}\n- {model: org/b, default: true}\n"
    edit = add(before, "org/a", variant="Q8_0", default=True)
    assert edit.notes == ("the entry in line 2 is no longer the default one of org/a",)
    assert edit.text == (
        "models:\n- {model: org/a, default: false}\n- {model: org/b, default: true}\n"
        "- model: org/a\n  variant: Q8_0\n  default: true\n"
    )


def test_texts_that_readers_disagree_about_are_quoted() -> None:
    text = add("", "org/a", channel="2024-01-01", variant="1e5", target="2x-a100-80gb+64 GiB").text
    for line in ('channel: "2024-01-01"', 'variant: "1e5"', 'target: "2x-a100-80gb+64 GiB"'):
        assert line in text
    assert add("", "org/a", channel=f"{'12345678' * 5}").text.endswith(f'channel: "{"12345678" * 5}"\n')


def test_a_catalog_that_is_not_valid_is_not_edited() -> None:
    with pytest.raises(BadCatalog, match="line 2, column 5: the entry has no `model`"):
        add("models:\n  - keep: 1\n", "org/a")


def test_a_layout_that_is_not_edited_is_refused_with_the_lines_to_write() -> None:
    with pytest.raises(BadCatalog, match="laid out in a way") as raised:
        add("{models: }", "org/a", keep=1)
    lines = raised.value.cure.partition("\n")[2]
    assert parse_catalog(f"models:\n{lines}\n".encode(), "catalog.yaml").entries[0].keep == 1


NAMES = st.sampled_from(["org/a", "org/b", "Org/A", "gpt2"])
OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "channel": st.sampled_from(["main", "v1", "2024-01-01", "12345678", "no"]),
        "variant": st.sampled_from(["Q8_0", "Q4_K_M", "1e5", "q8_0"]),
        "target": st.sampled_from(["any", "64GiB", "2x-l4+64 GiB"]),
        "default": st.booleans(),
        "context_tokens": st.integers(256, 1_048_576),
        "profile": st.sampled_from(["chat", "roleplay"]),
        "required": st.booleans(),
        "keep": st.integers(0, 10_000),
    },
)
STARTS = st.sampled_from([before for before, _ in LAYOUTS.values() if not before.startswith("{")])


def without_edits(text: str, before: str) -> bool:
    """Whether every line of `before`, but for values that were replaced, is in `text` in the same order."""
    remaining = iter(text.splitlines())
    comments = [line.partition("#")[2] for line in before.splitlines() if "#" in line]
    return all(any(comment in line for line in remaining) for comment in comments)


@given(STARTS, st.lists(st.tuples(NAMES, OPTIONS), min_size=1, max_size=5))
def test_any_sequence_of_additions_is_valid_and_keeps_comments_and_other_entries(
    before: str, additions: list[tuple[str, dict[str, Any]]]
) -> None:
    text = before
    for model, options in additions:
        known = {} if not text.strip("# ours") else {one.key: one for one in entries_of(text)}
        edit = add(text, model, **options)
        after = {one.key: one for one in entries_of(edit.text)}
        assert after[edit.entry.key] == edit.entry
        assert all(
            getattr(edit.entry, key) == value for key, value in options.items() if key not in {"variant", "target"}
        )
        assert len(after) == len(known | {edit.entry.key: edit.entry})
        for key, one in known.items():
            assert key == edit.entry.key or after[key].model_copy(update={"default": one.default}) == one
        assert without_edits(edit.text, before)
        assert add(edit.text, model, **options).outcome == "unchanged"
        text = edit.text


def entries_of(text: str) -> tuple[CatalogEntry, ...]:
    return parse_catalog(text.encode(), "catalog.yaml").entries


# The file


def test_a_new_catalog_has_its_schema_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "new" / "catalog.yaml"
    add_to_file(path, CatalogEntry(model=ModelName.parse("org/a")), {})
    assert path.read_text().startswith(f"# yaml-language-server: $schema={SCHEMA_NAME}\n")
    assert (path.parent / SCHEMA_NAME).read_text() == schema_text()
    assert sorted(one.name for one in path.parent.iterdir()) == [SCHEMA_NAME, "catalog.yaml"]


def test_a_file_keeps_its_mode_its_mark_and_the_link_to_it(tmp_path: Path) -> None:
    path, link = tmp_path / "catalog.yaml", tmp_path / "link.yaml"
    path.write_bytes(b"\xef\xbb\xbfmodels:\r\n")
    path.chmod(0o640)
    link.symlink_to("catalog.yaml")
    add_to_file(link, CatalogEntry(model=ModelName.parse("org/a")), {})
    assert link.is_symlink()
    assert path.read_bytes() == b"\xef\xbb\xbfmodels:\r\n  - model: org/a\r\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_several_editors_lose_no_entry(tmp_path: Path) -> None:
    path = tmp_path / "catalog.yaml"
    wanted = [CatalogEntry(model=ModelName.parse(f"org/m{number}")) for number in range(6)]
    threads = [threading.Thread(target=add_to_file, args=(path, one, {})) for one in wanted]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(entries_of(path.read_text()), key=str) == sorted(wanted, key=str)


def test_a_file_in_the_way_of_the_directory_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "infra").write_text("")
    with pytest.raises(NoPermission, match=r"cannot be written: .*/infra: .*set PADDOCK_CATALOG to another file"):
        add_to_file(tmp_path / "infra" / "catalog.yaml", CatalogEntry(model=ModelName.parse("org/a")), {})


# The commands


@pytest.fixture
def catalog(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The default place of the catalog, below the current directory."""
    monkeypatch.delenv("PADDOCK_CATALOG", raising=False)
    monkeypatch.chdir(tmp_path)
    return Path("infra/catalog.yaml")


def test_models_are_added_changed_and_listed(catalog: Path, paddock: Paddock) -> None:
    added = paddock("catalog", "add", "org/a:Q8_0@v1.0", "--target", "rtx-4090", "--ctx", "8192", "--json")
    assert (added.status, added.json["outcome"], added.json["path"]) == (0, "added", str(catalog))
    line = paddock("catalog", "add", "org/a:Q8_0@v1.0", "--target", "rtx-4090", "--default", "--required").stdout
    assert line == f"org/a:Q8_0@v1.0 changed in {catalog}\n"
    assert paddock("catalog", "add", "https://huggingface.co/org/b").stdout == f"org/b@main added to {catalog}\n"
    checked = paddock("catalog", "check", "--json")
    assert (checked.status, checked.json["valid"]) == (0, True)
    first, second = checked.json["entries"]
    assert (first["model"], first["variant"], first["channel"], first["line"]) == ("org/a", "Q8_0", "v1.0", 4)
    assert (first["default"], first["required"], first["context_tokens"]) == (True, True, 8192)
    assert (second["model"], second["variant"], second["target"]) == ("org/b", "auto", "this-machine")
    shown = paddock("--json", "catalog", "check")
    assert shown.json == checked.json
    assert "2 entries, valid" in paddock("catalog", "check", str(catalog)).stdout


def test_a_broken_catalog_is_listed_with_its_problems(catalog: Path, paddock: Paddock) -> None:
    catalog.parent.mkdir()
    catalog.write_text(
        "models:\n- model: org/a\n- {model: org/b, keep: many}\n- zzz: \x1b[2J\n".replace("\x1b[2J", "1")
    )
    checked = paddock("catalog", "check")
    assert checked.status == 3
    assert f"{catalog}:3:24: `keep` is `many`, and a whole number in decimal digits is expected" in checked.stdout
    assert "1 entry, 3 problems" in checked.stdout
    as_json = paddock("catalog", "check", "--json")
    assert (as_json.status, as_json.json["error"], as_json.json["valid"]) == (3, "bad-catalog", False)
    assert [problem["line"] for problem in as_json.json["problems"]] == [3, 4, 4]
    refused = paddock("catalog", "add", "org/c")
    assert (refused.status, refused.stdout) == (3, "")
    assert "line 3, column 24" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["check"], "`paddock catalog add MODEL` makes one"),
        (["chek"], "use `paddock catalog check`"),
        (["add"], "see `paddock catalog add --help`"),
        ([], "see `paddock catalog --help`"),
        (["add", "org/a:x.gguf"], "a catalog names variants"),
        (["add", "org/a:latest"], "reserved word"),
        (["add", "org/a", "--target", "rtx-1"], "is not a known machine"),
        (["add", "org/a", "--context", "1"], "--context"),
    ],
    ids=lambda value: " ".join(value) or "no command" if isinstance(value, list) else "",
)
def test_wrong_usage_is_one_sentence(catalog: Path, paddock: Paddock, arguments: list[str], reason: str) -> None:
    refused = paddock("catalog", *arguments)
    assert (refused.status, refused.stdout, refused.stderr.count("\n")) == (3, "", 1)
    assert reason in refused.stderr
    assert not os.path.lexists(catalog)


def test_the_cure_of_a_missing_catalog_makes_one(catalog: Path, paddock: Paddock) -> None:
    assert paddock("catalog", "check").status == 3
    assert paddock("catalog", "add", "org/a").status == 0
    assert paddock("catalog", "check").status == 0
