"""The probe of a remote store's features: a row for each, on real servers and on one that lacks a feature."""

from __future__ import annotations

import pytest

from paddock.store.features import FEATURES, StoreFeatures
from paddock.store.remote import ObjectStore
from tests.support.fixed_response import fixed_response_server
from tests.support.limited_s3 import ENVIRONMENT, Lack, limited_s3
from tests.support.stores import S3Store

NAMES = [feature.name for feature in FEATURES]
LACKING: list[tuple[Lack, set[str]]] = [
    ("etag", {"ETag"}),
    ("length", {"length on HEAD"}),
    ("status-206", set()),
    ("ranges", {"ranges"}),
    ("presigned", {"presigned addresses", "ranges"}),
    ("bytes", {"presigned addresses", "ranges"}),
    ("conditions", {"conditional writes"}),
    ("if-match", {"conditional writes"}),
    ("accepting-conditions", {"conditional writes"}),
    ("checksums", {"checksums"}),
]


def missing(features: StoreFeatures) -> set[str]:
    assert [row.name for row in features.rows] == NAMES
    assert StoreFeatures.from_json(features.to_json()) == features
    return {row.name for row in features.rows if not row.ok}


def store_at(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> S3Store:
    for name, value in {**ENVIRONMENT, "AWS_ENDPOINT_URL": endpoint}.items():
        monkeypatch.setenv(name, value)
    return S3Store("s3://models/prefix")


def test_a_complete_store_has_every_feature_and_keeps_nothing_of_the_probe(remote: ObjectStore) -> None:
    features = remote.features()
    assert (missing(features), features.is_usable, features.where) == (set(), True, remote.label)
    assert list(remote.objects.list("")) == []


@pytest.mark.parametrize(("lack", "expected"), LACKING)
def test_what_a_server_lacks_is_reported_with_what_is_lost(
    monkeypatch: pytest.MonkeyPatch, lack: Lack, expected: set[str]
) -> None:
    with limited_s3(lack) as server:
        features = store_at(monkeypatch, server.endpoint).features()
    assert missing(features) == expected
    assert all(row.message != "works" and row.lost for row in features.rows if not row.ok)


def test_a_server_that_stores_nothing_is_not_usable(monkeypatch: pytest.MonkeyPatch) -> None:
    with limited_s3("storing") as server:
        features = store_at(monkeypatch, server.endpoint).features()
    assert not features.is_usable
    assert {"writing", "listing", "multipart uploads"} <= missing(features)


def test_a_web_page_has_no_feature_that_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    with fixed_response_server(b"<!doctype html><p>Console", status=404) as endpoint:
        features = store_at(monkeypatch, endpoint).features()
    assert not features.is_usable
    assert "is no S3 server" in features.rows[NAMES.index("listing")].message
