"""The small files beside a model: those that are fetched, and those that are left out because of their names."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paddock.errors import ModelRejected
from paddock.model.artifact import RepositoryFile
from paddock.model.names import check_distinct, parse_repository_path
from paddock.planning.companions import (
    MAX_COMPANION_BYTES,
    LeftOut,
    left_out_notes,
    require_safe_paths,
    select_companions,
)

MODEL = ("m-Q8_0.gguf",)


def files(*paths: str, size: int = 1) -> list[RepositoryFile]:
    return [RepositoryFile(path, size, None, None) for path in paths]


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("eval: mmlu.json", "a colon"),
        ("what?.json", "a wildcard"),
        ("a\\b.json", "a backslash"),
        ("-notes.json", "begins with a dash"),
        (".hidden.json", "begins with a dash, dot or space"),
        (" x.json", "begins with a dash, dot or space"),
        ("tokenizer.", "ends with a dot or space"),
        ("tokenizer\x1b[2J", "a control or format character"),
        ("\u202enosj.json", "a control or format character"),
        ("lone \ud800.json", "a control or format character"),
        ("nul.json", "a reserved device name"),
        ("COM1.json", "a reserved device name"),
        (f"{'x' * 300}.json", "longer than 255 bytes"),
        ("e\u0301.json", "Unicode's NFC form"),
        ("manifest.json", "Paddock writes a file of its own as manifest.json"),
        ("chat.paddock.json", "Paddock writes a file of its own as chat.paddock.json"),
        ("\uff4danifest.json", "Paddock writes a file of its own as manifest.json"),
    ],
    ids=ascii,
)
def test_a_companion_with_an_unsafe_name_is_left_out_with_the_reason(path: str, reason: str) -> None:
    chosen = select_companions(files("config.json", path), MODEL)
    assert chosen.paths == ("config.json",)
    (left_out,) = chosen.left_out
    assert left_out.path == path
    assert reason in left_out.reason
    assert left_out.note.isprintable()


@pytest.mark.parametrize("order", [1, -1])
def test_of_names_that_are_the_same_on_some_file_systems_the_one_in_lower_case_is_kept(order: int) -> None:
    names = ["Config.json", "config.json", "CONFIG.json", "\uff43onfig.json"]
    chosen = select_companions(files(*names[::order]), MODEL)
    assert chosen.paths == ("config.json",)
    assert {one.path for one in chosen.left_out} == set(names) - {"config.json"}
    assert {one.reason for one in chosen.left_out} == {"some file systems take its name for config.json"}


def test_a_companion_never_displaces_the_model() -> None:
    chosen = select_companions(files("tokenizer", "tokenizer_config.json"), ("Tokenizer/m-Q8_0.gguf",))
    assert chosen.paths == ("tokenizer_config.json",)
    assert chosen.left_out == (
        LeftOut("tokenizer", "some file systems take its name for a directory of Tokenizer/m-Q8_0.gguf"),
    )


def test_a_companion_that_is_too_large_is_left_out() -> None:
    chosen = select_companions(files("huge.json", size=MAX_COMPANION_BYTES + 1), MODEL)
    assert chosen.paths == ()
    assert chosen.left_out[0].reason == "it has 128.0 MiB, and at most 128.0 MiB are fetched"


def test_many_names_are_counted_and_not_listed() -> None:
    notes = left_out_notes(select_companions(files(*(f"-{number}.json" for number in range(100))), MODEL).left_out)
    assert len(notes) == 9
    assert notes[-1] == "92 more files are left out"


@pytest.mark.parametrize(
    "paths", [("a\\b.gguf",), ("-m.gguf",), ("m.gguf", "M.gguf"), ("manifest.json/m.gguf",)], ids=ascii
)
def test_an_unsafe_name_of_the_model_itself_rejects_the_model(paths: tuple[str, ...]) -> None:
    with pytest.raises(ModelRejected) as caught:
        require_safe_paths(paths)
    assert caught.value.exit_status == 2
    assert "choose another file" in caught.value.cure


@given(st.lists(st.text(st.sampled_from("aA. -:\u0301Kk/tokenizer"), max_size=12).map(lambda text: text + ".json")))
def test_what_is_selected_is_safe_and_distinct_and_all_else_has_a_reason(paths: list[str]) -> None:
    chosen = select_companions(files(*dict.fromkeys(paths)), MODEL)
    check_distinct([*map(parse_repository_path, chosen.paths), *MODEL])
    top = {path for path in paths if "/" not in path}
    assert set(chosen.paths) | {one.path for one in chosen.left_out} == top
    assert all(one.reason for one in chosen.left_out)
