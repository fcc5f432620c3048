"""References to models, the identity of snapshots, and the keys of artifacts."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paddock.errors import UnsafeName
from paddock.model.names import ModelName, Revision
from paddock.model.reference import (
    RESERVED_VARIANTS,
    VARIANT_MAX_BYTES,
    Reference,
    SnapshotId,
    Variant,
    artifact_key,
    parse_variant,
    same_variant,
)

MODEL = ModelName.parse("org/name")
COMMIT = "0123456789abcdef" * 2 + "01234567"

variants = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,20}[A-Za-z0-9])?", fullmatch=True).filter(
    lambda text: "--" not in text and ".." not in text and text.casefold() not in RESERVED_VARIANTS
)
refs = st.sampled_from(["main", "v1.0", "refs/pr/1", COMMIT, COMMIT[:8]])


@pytest.mark.parametrize(
    ("text", "variant", "ref"),
    [
        ("org/name", None, None),
        ("org/name:Q8_0", "Q8_0", None),
        ("org/name@main", None, "main"),
        ("org/name:UD-Q4_K_XL@v1.0", "UD-Q4_K_XL", "v1.0"),
        ("org/name@refs/pr/1:Q8_0-mmproj", "Q8_0-mmproj", "refs/pr/1"),
        (f"org/name:Q8_0@{COMMIT[:8]}", "Q8_0", COMMIT[:8]),
    ],
)
def test_a_variant_and_a_revision_are_read_in_either_order(text: str, variant: str | None, ref: str | None) -> None:
    assert Reference.parse(text) == Reference(MODEL, Variant(variant) if variant else None, ref)


@given(st.none() | variants, st.none() | refs)
def test_a_reference_is_equal_after_printing_and_parsing(variant: str | None, ref: str | None) -> None:
    wanted = Reference(MODEL, Variant(variant) if variant else None, ref)
    assert Reference.parse(str(wanted)) == wanted


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":Q8_0",
        "@main",
        "org/name:",
        "org/name@",
        "org/name:Q8_0:Q4_0",
        "org/name@a@b",
        "org/name:../x",
        "org/name:a--b",
        "org/name:a..b",
        "org/name:-x",
        "org/name:.x",
        "org/name:a b",
        "org/name:a/b",
        "org/name:a\x00",
        "org/name:" + "a" * (VARIANT_MAX_BYTES + 1),
        "org/name:latest",
        "org/name:AUTO",
        "org/name@../x",
        "../x:Q8_0",
    ],
)
def test_an_invalid_reference_is_refused_with_the_text_quoted(text: str) -> None:
    with pytest.raises(UnsafeName) as told:
        Reference.parse(text)
    assert isinstance(told.value, ValueError)
    assert told.value.exit_status == 3


def test_a_printed_snapshot_parses_to_a_reference_to_it() -> None:
    snapshot = SnapshotId(MODEL, Revision(COMMIT), Variant("Q8_0"))
    assert str(snapshot) == f"org/name:Q8_0@{COMMIT}"
    assert (snapshot.short, snapshot.name) == ("org/name:Q8_0@01234567", "org/name:Q8_0")
    assert Reference.parse(str(snapshot)) == Reference(MODEL, Variant("Q8_0"), COMMIT)
    assert Reference.parse(snapshot.short).ref == COMMIT[:8]


def test_variants_are_the_same_whatever_their_case() -> None:
    assert same_variant("q4_k_m", "Q4_K_M")
    assert not same_variant("Q4_K_M", "Q4_K_S")


@given(variants)
def test_the_longest_link_of_a_variant_fits_into_a_file_name(text: str) -> None:
    longest = ModelName.parse(f"{'o' * 96}/{'n' * 96}").slug
    assert len(f"{longest}--{'v' * VARIANT_MAX_BYTES}".encode()) <= 255
    assert parse_variant(text) == text


def test_an_artifact_key_stays_the_same_from_release_to_release() -> None:
    model = ModelName.parse("bartowski/Llama-3.2-1B_Instruct")
    assert artifact_key("dossier", model, str(model)) == "dossier-bartowski-llama-3-2-1b-instruct-8b8bef3b"


@given(variants)
def test_an_artifact_key_is_of_lower_case_letters_digits_and_dashes(variant: str) -> None:
    assert re.fullmatch(r"files-org-name-[0-9a-f]{8}", artifact_key("files", MODEL, f"org/name:{variant}"))


@pytest.mark.parametrize(
    ("one", "other"), [("Org/Name", "org/name"), ("org/a.b", "org/a-b"), ("org/a_b", "org/a-b"), ("a-b", "a/b")]
)
def test_names_with_the_same_slug_have_different_keys(one: str, other: str) -> None:
    first, second = (artifact_key("memory", ModelName.parse(name), name) for name in (one, other))
    assert first[:-9] == second[:-9]
    assert first != second
