"""Untrusted names: which are accepted, which are refused by which rule, and that none leaves its directory."""

from __future__ import annotations

import os
import re
import unicodedata
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paddock import get_model_path_from_name
from paddock.errors import UnsafeName
from paddock.model import names
from paddock.model.names import (
    ModelName,
    check_distinct,
    is_revision,
    parse_ref,
    parse_repository_path,
    parse_revision,
    parse_segment_digest,
    parse_sha256,
)

LONG = "x" * 96

GOOD = {
    "plain": ("org/name", "org--name"),
    "as the Hub has them": ("bartowski/Llama-3.2-1B-Instruct-GGUF", "bartowski--Llama-3.2-1B-Instruct-GGUF"),
    "without an organisation": ("gpt2", "gpt2"),
    "dots inside": ("org/v1.5.2", "org--v1.5.2"),
    "single dashes": ("a-b/c-d-e", "a-b--c-d-e"),
    "underscores at the ends": ("_org_/_name_", "_org_--_name_"),
    "digits alone": ("01/7", "01--7"),
    "one letter": ("a/b", "a--b"),
    "case is kept": ("ORG/Name", "ORG--Name"),
    "as long as may be": (f"{LONG}/{LONG}", f"{LONG}--{LONG}"),
    "an extension": ("org/model.gguf", "org--model.gguf"),
    "git inside": ("org/git.github", "org--git.github"),
}
HOSTILE = {
    "empty": "",
    "a slash": "/",
    "a dot": ".",
    "dots": "..",
    "dots as a part": "org/..",
    "dots as the organisation": "../name",
    "dots within a part": "org/a..b",
    "climbing": "../../etc/passwd",
    "absolute": "/etc/passwd",
    "absolute with two slashes": "//etc",
    "two slashes": "a/b/c",
    "an empty part": "a//b",
    "a slash at the end": "org/",
    "a slash at the start": "/name",
    "backslash": "org\\name",
    "backslash that climbs": "..\\name",
    "drive letter": "C:/models",
    "drive letter and backslash": "C:\\models",
    "drive relative": "C:name",
    "share": "\\\\host\\share",
    "NUL": "org/na\0me",
    "NUL at the end": "org/name\0",
    "newline": "org/na\nme",
    "newline at the end": "org/name\n",
    "escape": "org/\x1b[31mred",
    "delete": "org/a\x7f",
    "C1 control": "org/a\x85b",
    "leading dash": "-org/name",
    "leading dash in the name": "org/-rf",
    "leading dot": ".org/name",
    "our own directory": ".paddock",
    "leading dot in the name": "org/.git",
    "trailing dash": "org/name-",
    "trailing dot": "org/name.",
    "holds --": "org--name",
    "holds -- in a part": "org/na--me",
    "holds --- in a part": "org/a---b",
    "ends in .git": "org/name.git",
    "over-long name": f"org/{LONG}x",
    "over-long organisation": f"{LONG}x/name",
    "a megabyte": "x" * 2**20,
    "space": "org/na me",
    "space at the start": " org/name",
    "tilde": "~/name",
    "variable": "$HOME/name",
    "command": "org/$(id)",
    "wildcard": "org/*",
    "percent": "org/%2e%2e",
    "address": "https://huggingface.co/org/name",
    "revision": "org/name@main",
    "file": "org/name:model.gguf",
    "accent": "org/modèle",
    "full-width slash": "org／name",
    "full-width dots": "org/．．",
    "Cyrillic a": "org/n\u0430me",
    "right-to-left override": "org/\u202egpj.exe",
    "zero-width space": "org/na\u200bme",
    "Arabic digits": "org/\u0661\u0662",
    "superscript": "org/a\u00b2",
    "lone surrogate": "org/\ud800",
}


@pytest.mark.parametrize(("name", "slug"), GOOD.values(), ids=GOOD)
def test_a_good_name_is_a_directory_directly_below_the_volume(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, slug: str
) -> None:
    monkeypatch.setenv("PADDOCK_VOLUME", str(tmp_path))
    assert get_model_path_from_name(name) == tmp_path / slug
    (tmp_path / slug).mkdir()
    assert str(ModelName.parse(name)) == name


def test_the_default_volume_is_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PADDOCK_VOLUME", raising=False)
    assert get_model_path_from_name("org/name") == Path("/models/org--name")


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE)
def test_an_unsafe_name_is_a_value_error_that_names_it(name: str) -> None:
    with pytest.raises(ValueError, match="model name") as caught:
        get_model_path_from_name(name)
    assert type(caught.value) is UnsafeName
    assert repr(name) in str(caught.value) or repr(name[:100])[:-1] in str(caught.value)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 600


part = st.from_regex(r"[A-Za-z0-9_]([A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?", fullmatch=True).filter(
    lambda text: ".." not in text and "--" not in text and not text.endswith(".git")
)
model_names = st.one_of(part, st.tuples(part, part).map("/".join))


@given(model_names)
def test_a_name_is_equal_after_a_round_trip_through_text_and_slug(name: str) -> None:
    model = ModelName.parse(name)
    assert str(model) == name
    assert ModelName.parse(str(model)) == model
    assert ModelName.from_slug(model.slug) == model


@given(st.lists(model_names, unique=True, min_size=2, max_size=4))
def test_two_names_never_share_a_slug(texts: list[str]) -> None:
    assert len({ModelName.parse(text).slug for text in texts}) == len(texts)


@given(st.one_of(st.text(), st.text("ab-._/~\\:\0", max_size=12)))
def test_every_accepted_name_is_one_safe_part_of_a_path(text: str) -> None:
    try:
        slug = ModelName.parse(text).slug
    except UnsafeName:
        return
    assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,194}", slug)
    assert ".." not in slug
    assert Path("/models", slug).parent == Path("/models")


@pytest.mark.parametrize("slug", ["", "a--b--c", "..", "a/b/c", "--", "a--", "--a", ".paddock"])
def test_directories_that_are_not_slugs_are_refused(slug: str) -> None:
    with pytest.raises(UnsafeName):
        ModelName.from_slug(slug)


COMMIT, DIGEST = "0123456789abcdef" * 2 + "01234567", "0123456789abcdef" * 4


def test_commits_and_digests_are_returned_unchanged() -> None:
    assert parse_revision(COMMIT) == COMMIT
    assert parse_sha256(DIGEST) == DIGEST
    assert is_revision(COMMIT)


@pytest.mark.parametrize(
    "text",
    ["", "main", COMMIT[:-1], COMMIT + "0", COMMIT.upper(), COMMIT + "\n", " " + COMMIT, "../" + COMMIT[3:], "٠" * 40],
    ids=repr,
)
def test_a_commit_is_exactly_forty_hexadecimal_digits(text: str) -> None:
    assert not is_revision(text)
    with pytest.raises(UnsafeName, match="40 hexadecimal"):
        parse_revision(text)


@pytest.mark.parametrize(
    "text", ["", DIGEST[:-1], DIGEST.upper(), DIGEST + "\n", "../" + DIGEST[3:], "/" * 64], ids=repr
)
def test_a_digest_is_exactly_sixty_four_hexadecimal_digits(text: str) -> None:
    with pytest.raises(UnsafeName, match="64 hexadecimal"):
        parse_sha256(text)


@pytest.mark.parametrize("text", [DIGEST, f"blake3:{DIGEST}"])
def test_segment_digests_are_blake3_or_sha256_as_in_early_manifests(text: str) -> None:
    assert parse_segment_digest(text) == text


@pytest.mark.parametrize(
    "text",
    ["", "blake3:", f"blake3:{DIGEST[:-1]}", f"BLAKE3:{DIGEST}", f"md5:{DIGEST}", f"blake3:{DIGEST}\n"],
    ids=repr,
)
def test_other_texts_are_refused_as_segment_digests(text: str) -> None:
    with pytest.raises(UnsafeName, match="64 hexadecimal"):
        parse_segment_digest(text)


@pytest.mark.parametrize("text", ["main", "v1.0", "refs/pr/7", "feature/a+b", COMMIT, "x" * 255])
def test_branches_tags_and_pull_requests_are_accepted_as_revisions(text: str) -> None:
    assert parse_ref(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-x",
        ".x",
        "/x",
        "x/",
        "x.",
        "x.lock",
        "a..b",
        "a//b",
        "a b",
        "a?b",
        "a#b",
        "a\\b",
        "a:b",
        "a\n",
        "é",
        "x" * 256,
    ],
    ids=repr,
)
def test_revisions_that_git_shells_or_urls_could_misread_are_refused(text: str) -> None:
    with pytest.raises(UnsafeName, match="branch, tag or commit"):
        parse_ref(text)


SAFE_PATHS = {
    "a file": "model.gguf",
    "below a directory": "Q8_0/model-00001-of-00002.gguf",
    "a space within": "my model.gguf",
    "letters of other scripts": "模型/модель.gguf",
    "composed accents": unicodedata.normalize("NFC", "modèle.gguf"),
    "dots within": "a..b.json",
    "a tilde": "~model.json",
    "brackets and signs": "model (1) [v2] +x,y;z=%41&#'!.json",
    "begins like a device": "console.log",
    "a device's name as an extension": "model.con",
    "255 bytes": "é" * 127 + "x",
    "1,024 bytes": "/".join(["x" * 204] * 5),
}
UNSAFE_PATHS = {
    "empty": ("", "empty part"),
    "absolute": ("/etc/passwd", "absolute"),
    "an empty part": ("a//b", "empty part"),
    "a slash at the end": ("a/", "empty part"),
    "a dot": (".", "dot"),
    "a dot as a part": ("a/./b", "dot"),
    "dots": ("..", "dot"),
    "climbing": ("../../.ssh/authorized_keys", "dot"),
    "climbing from within": ("a/../../b", "dot"),
    "hidden": (".bashrc", "dot"),
    "hidden directory": (".git/config", "dot"),
    "trailing dot": ("model.gguf.", "dot"),
    "backslash": ("..\\x", "backslash"),
    "colon": ("C:model", "colon"),
    "alternate stream": ("model.gguf:evil", "colon"),
    "star": ("*.json", "wildcard"),
    "question mark": ("a?.json", "wildcard"),
    "pipe": ("a|b", "wildcard"),
    "angle brackets": ("<a>", "wildcard"),
    "quotation mark": ('a"b', "wildcard"),
    "NUL": ("a\0b", "control"),
    "newline": ("a\nb", "control"),
    "newline at the end": ("model.gguf\n", "control"),
    "escape": ("\x1b[2J.json", "control"),
    "C1 control": ("a\x9bb", "control"),
    "right-to-left override": ("model\u202egpj.gguf", "format"),
    "zero-width joiner": ("a\u200db", "format"),
    "byte order mark": ("\ufeffconfig.json", "format"),
    "line separator": ("a\u2028b", "format"),
    "lone surrogate": ("a\udc80", "format"),
    "leading dash": ("-rf", "dash"),
    "leading dash below": ("a/--help", "dash"),
    "leading space": (" a", "space"),
    "trailing space": ("a ", "space"),
    "trailing space of a directory": ("a /b", "space"),
    "decomposed accents": (unicodedata.normalize("NFD", "modèle.gguf"), "NFC"),
    "Ångström sign": ("\u212b.json", "NFC"),
    "device": ("con", "device"),
    "device with an extension": ("NUL.gguf", "device"),
    "device with a space": ("aux .txt", "device"),
    "device as a directory": ("LPT1/model.gguf", "device"),
    "device with a superscript": ("COM\u00b9.json", "device"),
    "256 bytes": ("é" * 128, "255 bytes"),
    "1,025 bytes": ("/".join(["x" * 204] * 4 + ["x" * 205]), "1024 bytes"),
}


@pytest.mark.parametrize("path", SAFE_PATHS.values(), ids=SAFE_PATHS)
def test_a_safe_file_name_is_returned_unchanged_and_can_be_created(tmp_path: Path, path: str) -> None:
    assert parse_repository_path(path) == path
    target = tmp_path / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(b"")
    assert [found for found in tmp_path.rglob("*") if found.is_file()] == [target]


@pytest.mark.parametrize(("path", "rule"), UNSAFE_PATHS.values(), ids=UNSAFE_PATHS)
def test_each_rule_for_file_names_is_enforced_and_named(path: str, rule: str) -> None:
    with pytest.raises(UnsafeName) as caught:
        parse_repository_path(path)
    message = caught.value.message
    assert repr(path[:200]) in message
    assert rule in message.removeprefix(f"the file name {path[:200]!r} is not safe: ")
    assert str(caught.value).isprintable()


paths = st.one_of(
    st.text(), st.text("ab.-_ /\\:~*\0\n\u202e\u0301", max_size=16), st.lists(st.text(max_size=8)).map("/".join)
)


@given(paths)
def test_every_accepted_file_name_stays_below_the_directory_that_it_is_joined_to(text: str) -> None:
    try:
        path = parse_repository_path(text)
    except UnsafeName:
        return
    joined = os.path.normpath(Path("/volume/snapshot") / path)
    assert joined == f"/volume/snapshot/{path}"
    assert len(PurePosixPath(joined).parts) == 3 + len(path.split("/"))
    assert os.fsencode(path).decode() == path


COLLIDING = {
    "twice the same": ["a.json", "a.json"],
    "case": ["Model.gguf", "model.gguf"],
    "case of a directory": ["Q8/a", "q8/A"],
    "sharp s": ["straße", "STRASSE"],
    "composed and decomposed": [unicodedata.normalize(form, "é") for form in ("NFC", "NFD")],
    "compatibility form": ["\ufb01le", "file"],
    "full-width": ["\uff41.json", "a.json"],
    "Kelvin sign": ["\u212a", "k"],
    "full-width slash": ["a\uff0fb", "a/b"],
    "a file that is a directory": ["config", "config/a.json"],
    "a file that is a directory above": ["a", "a/b/c/d"],
    "a file that is a directory in another case": ["Config", "config/a.json"],
    "whatever their order": ["a/b/c", "x", "a/b"],
}


@pytest.mark.parametrize("paths", COLLIDING.values(), ids=COLLIDING)
def test_names_that_collide_on_some_file_system_are_refused(paths: list[str]) -> None:
    with pytest.raises(UnsafeName) as caught:
        check_distinct(paths)
    assert sum(repr(path) in str(caught.value) for path in set(paths)) == min(2, len(set(paths)))


def test_distinct_names_are_accepted() -> None:
    check_distinct(["a", "b/a", "b/b", "ab", "a.b", "c/a/a"])
    check_distinct(iter(()))


@given(st.lists(st.text("abAB/", min_size=1, max_size=5)))
def test_accepted_names_can_be_created_on_a_file_system_that_ignores_case(texts: list[str]) -> None:
    accepted: list[str] = []
    for text in texts:
        try:
            check_distinct([*accepted, parse_repository_path(text)])
        except UnsafeName:
            continue
        accepted.append(text)
    files = [text.casefold() for text in accepted]
    directories = {str(above) for file in files for above in PurePosixPath(file).parents}
    assert len(set(files)) == len(files)
    assert not directories & set(files)


@given(st.text())
def test_a_printable_name_contains_no_terminal_control_characters(text: str) -> None:
    assert names.printable(text).isprintable()
    assert len(names.printable(text)) <= 12 * 200


def test_a_plain_name_is_printed_unchanged() -> None:
    assert names.printable("Q8_0/model.gguf") == "Q8_0/model.gguf"
    assert names.printable("a\x1b[2Jb") == "'a\\x1b[2Jb'"
