"""The manifest of a snapshot: its JSON is a fixed contract, and every value in it is validated when it is read."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paddock.errors import CorruptFile, UnsafeName
from paddock.model.artifact import Manifest, RecordedFinding, SnapshotFile, record_findings
from paddock.model.finding import Finding, Severity, Verdict
from paddock.model.names import ModelName, Revision, SegmentDigest, Sha256, check_distinct, parse_repository_path
from paddock.model.reference import SnapshotId, Variant

WHERE = "/models/.paddock/snapshots/org--name/manifest.json"

digests = st.text("0123456789abcdef", min_size=64, max_size=64).map(Sha256)
segments = st.tuples(st.sampled_from(["blake3:", ""]), digests).map("".join).map(SegmentDigest)
parts = st.text("abcxyz019_é模", min_size=1, max_size=6)
file_paths = st.lists(parts, min_size=1, max_size=3).map("/".join)
files = st.builds(
    SnapshotFile,
    path=file_paths,
    size=st.integers(2**32, 2**46),  # at least three segments, and not too many
    sha256=digests,
    segments=st.lists(segments, max_size=3).map(tuple),
)


def _apart(listed: list[SnapshotFile]) -> bool:
    try:
        check_distinct(file.path for file in listed)
    except UnsafeName:
        return False
    return True


manifests = st.builds(
    Manifest,
    repository=st.sampled_from(["org/name", "gpt2", "Org-1/Name_2.5"]),
    revision=st.text("0123456789abcdef", min_size=40, max_size=40).map(Revision),
    variant=st.sampled_from(["Q8_0", "UD-Q4_K_XL", "Q8_0-mmproj", "old-m.v2"]),
    files=st.lists(files, max_size=4).filter(_apart).map(tuple),
    segment_bytes=st.integers(2**26, 2**30),
    quantization=st.none() | st.text(max_size=50),
    split=st.integers(1, 99999),
    licence=st.none() | st.text(max_size=50),
    source=st.sampled_from(["hub", "s3", "local"]),
    created_at=st.datetimes(
        datetime(1970, 1, 2),  # noqa: DTZ001 - a bound has no time zone
        datetime(2199, 12, 30),  # noqa: DTZ001
        timezones=st.just(UTC) | st.integers(-12, 14).map(lambda h: timezone(timedelta(hours=h))),
    ),
    verdict=st.sampled_from(Verdict),
    findings=st.lists(
        st.builds(RecordedFinding, rule=st.text(max_size=20), severity=st.sampled_from(Severity)), max_size=3
    ).map(tuple),
    template_sha256=st.none() | digests,
    paddock_version=st.text(max_size=50),
    engine_version=st.text(max_size=50),
)


@given(manifests)
def test_a_manifest_is_equal_after_a_round_trip_through_json(manifest: Manifest) -> None:
    assert Manifest.from_json(manifest.to_json(), where=WHERE) == manifest
    assert Manifest.from_json(manifest.to_json().encode(), where=WHERE) == manifest


def example() -> Manifest:
    weights = SnapshotFile(
        path="model.gguf", size=100, sha256=Sha256("a" * 64), segments=(SegmentDigest("blake3:" + "b" * 64),)
    )
    return Manifest(
        repository="org/name",
        revision=Revision("c" * 40),
        variant=Variant("Q8_0"),
        files=(SnapshotFile(path="config.json", size=2, sha256=Sha256("d" * 64)), weights),
        segment_bytes=64,
        quantization="Q8_0",
        licence="apache-2.0",
        created_at=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        verdict=Verdict.WARN,
        findings=(RecordedFinding(rule="gguf.weights.zero", severity=Severity.WARN),),
        template_sha256=Sha256("e" * 64),
        paddock_version="1.2.3",
        engine_version="0.3.36",
    )


def test_the_json_of_a_manifest_has_exactly_the_keys_of_the_contract() -> None:
    assert json.loads(example().to_json()) == {
        "schema": 2,
        "repository": "org/name",
        "revision": "c" * 40,
        "variant": "Q8_0",
        "files": [
            {"path": "config.json", "size": 2, "sha256": "d" * 64, "segments": []},
            {"path": "model.gguf", "size": 100, "sha256": "a" * 64, "segments": ["blake3:" + "b" * 64]},
        ],
        "segment_bytes": 64,
        "quantization": "Q8_0",
        "split": 1,
        "licence": "apache-2.0",
        "source": "hub",
        "created_at": "2026-01-02T03:04:05Z",
        "verdict": "warn",
        "findings": [{"rule": "gguf.weights.zero", "severity": "warn"}],
        "template_sha256": "e" * 64,
        "paddock_version": "1.2.3",
        "engine_version": "0.3.36",
    }


def test_a_manifest_knows_its_model_and_its_size() -> None:
    assert example().model == ModelName.parse("org/name")
    assert example().size_bytes == 102
    assert example().id == SnapshotId(example().model, example().revision, Variant("Q8_0"))
    assert example().weights == {Sha256("a" * 64)}


def test_findings_are_recorded_as_unique_pairs_of_rule_and_severity() -> None:
    found = [
        Finding("b.rule", Severity.WARN, "one", "here"),
        Finding("b.rule", Severity.WARN, "two", "there"),
        Finding("a.rule", Severity.INFO, "three"),
    ]
    assert [(one.rule, one.severity) for one in record_findings(found)] == [("a.rule", "info"), ("b.rule", "warn")]


def test_a_manifest_is_immutable() -> None:
    with pytest.raises(FrozenInstanceError):
        example().quantization = "Q2_K"  # type: ignore[misc]  # the point


Document = dict[str, Any]


def _set(**values: object) -> Callable[[Document], object]:
    return lambda document: document.update(values)


def _file(**values: object) -> Callable[[Document], object]:
    return lambda document: document["files"][0].update(values)


def _twice(document: Document) -> None:
    document["files"].append({**document["files"][0], "path": "CONFIG.json"})


HOSTILE: dict[str, tuple[Callable[[Document], object], str]] = {
    "a repository that climbs": (_set(repository="../../etc"), "model name"),
    "a repository that is a slug": (_set(repository="org--name"), "model name"),
    "no repository": (lambda document: document.pop("repository"), "repository"),
    "a branch for a revision": (_set(revision="main"), "revision"),
    "a variant that climbs": (_set(variant="../x"), "variant"),
    "a variant that is a reserved word": (_set(variant="latest"), "variant"),
    "no variant": (lambda document: document.pop("variant"), "variant"),
    "findings that are no list": (_set(findings="none"), "findings"),
    "a finding of no severity": (_set(findings=[{"rule": "x", "severity": "fatal"}]), "findings.0.severity"),
    "a revision that is a path": (_set(revision="../" + "c" * 37), "revision"),
    "a file that climbs": (_file(path="../../../root/.ssh/id"), "files.0.path"),
    "an absolute file": (_file(path="/etc/passwd"), "files.0.path"),
    "a file with an escape": (_file(path="a\x1b[2J"), "files.0.path"),
    "a file whose name is no text": (_file(path=7), "files.0.path"),
    "a digest that is a path": (_file(sha256="../" + "d" * 61), "files.0.sha256"),
    "a digest in upper case": (_file(sha256="D" * 64), "files.0.sha256"),
    "a segment that is no digest": (_file(segments=["x"]), "files.0.segments.0"),
    "a segment of another kind": (_file(segments=["md5:" + "d" * 64]), "files.0.segments.0"),
    "a segment's digest that is a path": (_file(segments=["blake3:../" + "d" * 61]), "files.0.segments.0"),
    "a negative size": (_file(size=-1), "files.0.size"),
    "a size in words": (_file(size="big"), "files.0.size"),
    "a size that is not whole": (_file(size=1.5), "files.0.size"),
    "a file with more to say": (_file(link="/etc"), "files.0.link"),
    "two files that meet": (_twice, "same on some file systems"),
    "a file that is also a directory": (
        lambda document: document["files"].append({**document["files"][0], "path": "model.gguf/x"}),
        "also a directory",
    ),
    "files that are no list": (_set(files="all"), "files"),
    "no files": (lambda document: document.pop("files"), "files"),
    "another schema": (_set(schema=1), "schema"),
    "a template that is no digest": (_set(template_sha256="x"), "template_sha256"),
    "an unknown verdict": (_set(verdict="splendid"), "verdict"),
    "an unknown source": (_set(source="torrent"), "source"),
    "no shards": (_set(split=0), "split"),
    "empty segments": (_set(segment_bytes=0), "segment_bytes"),
    "a time without a zone": (_set(created_at="2026-01-02T03:04:05"), "created_at"),
    "a time that is none": (_set(created_at="yesterday"), "created_at"),
    "a key that is not ours": (_set(run="rm -rf /"), "run"),
    "a key with an escape": (_set(**{"\x1b[2J": 1}), r"'\x1b[2J'"),
}


@pytest.mark.parametrize(("change", "names"), HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_manifest_is_corrupt_with_its_place_and_the_error(
    change: Callable[[Document], object], names: str
) -> None:
    document = json.loads(example().to_json())
    change(document)
    with pytest.raises(CorruptFile) as caught:
        Manifest.from_json(json.dumps(document), where=WHERE)
    assert caught.value.message.startswith(f"the manifest {WHERE} is not valid for schema 2: ")
    assert names in caught.value.message
    assert caught.value.cure
    assert str(caught.value).isprintable()
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b"{}",
        b'"x"',
        b"\xff\xfe",
        b"\0" * 64,
        b"<html></html>",
        b"[" * 100_000,
        b'{"size":' * 100_000,
        b"9" * 10_000,
        b'{"schema": 1e999}',
    ],
    ids=lambda text: repr(text[:10]),
)
def test_other_bytes_than_a_manifest_are_corrupt(text: bytes) -> None:
    with pytest.raises(CorruptFile) as caught:
        Manifest.from_json(text, where=WHERE)
    assert WHERE in str(caught.value)
    assert len(str(caught.value)) < 600


@given(st.binary(), st.integers(0, 2000))
def test_a_damaged_manifest_is_either_corrupt_or_still_valid(noise: bytes, at: int) -> None:
    text = example().to_json().encode()
    try:
        manifest = Manifest.from_json(text[:at] + noise + text[at + len(noise) :], where=WHERE)
    except CorruptFile:
        return
    check_distinct(parse_repository_path(file.path) for file in manifest.files)
