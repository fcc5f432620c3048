"""A catalog that is an object in S3: read, extended, and what is said where that is not possible."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.local.s3 import S3Server
from paddock.errors import BadSetting, StoreUnavailable
from paddock.lifecycle.catalog import CatalogEntry, catalog_place, load_catalog, read_catalog
from paddock.lifecycle.catalog.edit import add_to_catalog
from paddock.lifecycle.catalog.stored_object import CatalogObject
from paddock.lifecycle.clients import REMOTE_STORES
from paddock.model.names import ModelName
from paddock.settings import Settings
from tests.support import directory_store
from tests.support.program import Paddock, paddock

__all__ = ["paddock"]

ENTRY = CatalogEntry(model=ModelName.parse("org/a"))


@pytest.fixture
def catalog(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> CatalogObject:
    """A catalog's place in a store on a directory."""
    monkeypatch.setitem(REMOTE_STORES, "directory", "tests.support.directory_store")
    monkeypatch.setitem(directory_store.ROOTS, "shared", tmp_path)
    place = catalog_place(Settings(catalog="directory://shared/wanted/catalog.yaml"))
    assert isinstance(place, CatalogObject)
    return place


def test_a_catalog_in_s3_is_read_made_and_extended(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch, paddock: Paddock
) -> None:
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    address, objects = f"s3://{s3.bucket}/team/catalog.yaml", s3.client()
    monkeypatch.setenv("PADDOCK_CATALOG", address)
    missing = paddock("catalog", "check", "--json").json
    assert (missing["error"], missing["message"]) == ("no-such-file", f"there is no catalog {address}")
    assert "`paddock catalog add MODEL` makes one" in missing["cure"]
    added = paddock("catalog", "add", "org/a:Q8_0", "--json").json
    assert (added["path"], added["outcome"]) == (address, "added")
    with_comment = b"# ours\n" + objects.get_object(Bucket=s3.bucket, Key="team/catalog.yaml")["Body"].read()
    objects.put_object(Bucket=s3.bucket, Key="team/catalog.yaml", Body=with_comment)
    assert paddock("catalog", "add", "org/b", "--json").json["outcome"] == "added"
    stored = objects.get_object(Bucket=s3.bucket, Key="team/catalog.yaml")["Body"].read()
    assert stored == with_comment + b"  - model: org/b\n"
    refused = paddock("catalog", "check", "s3://no-such-bucket/catalog.yaml", "--json").json
    assert refused["error"] == "store-refused"
    assert "the catalog s3://no-such-bucket/catalog.yaml cannot be read" in refused["message"]
    assert refused["cure"] == "make it, or correct PADDOCK_CATALOG"


def test_an_object_that_changed_meanwhile_is_left_as_it_is(catalog: CatalogObject) -> None:
    add_to_catalog(catalog, ENTRY, {})
    first, tag = catalog.read_with_tag()
    add_to_catalog(catalog, ENTRY, {"keep": 2})
    with pytest.raises(StoreUnavailable, match="was changed by another writer") as raised:
        catalog.replace(first, tag=tag)
    assert "run the command again" in raised.value.cure
    assert load_catalog(catalog.settings) is not None
    assert add_to_catalog(catalog, ENTRY, {"keep": 3}).outcome == "updated"


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("s3://bucket", "expected s3://bucket/key"),
        ("s3://bucket/catalogs/", "expected s3://bucket/key"),
        ("s3://bucket/a//b.yaml", "expected s3://bucket/key"),
        ("s3://key:secret@bucket/a.yaml", "expected a file, or s3://bucket/key"),
        ("https://host/catalog.yaml", "PADDOCK_CATALOG is not usable: expected s3://bucket"),
    ],
)
def test_an_address_that_names_no_object_is_refused(address: str, message: str) -> None:
    with pytest.raises(BadSetting, match=message) as raised:
        read_catalog(catalog_place(Settings(), address))
    assert "secret" not in str(raised.value)
