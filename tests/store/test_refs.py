"""The format of `refs/org--name.json` in S3, and that a worker changes only what it promoted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mypy_boto3_s3 import S3Client

from paddock.errors import NotOnVolume
from paddock.model.names import Revision
from paddock.model.reference import SnapshotId, Variant
from paddock.store.history import Promoted
from paddock.store.remote.refs import Pointer, Ref
from tests.support.stores import MODEL, Q4, Q8, A, B, C, S3Store, id_of, publish

PROJECTOR = Variant("Q8_0-mmproj")
variants = st.sampled_from([Q8, Q4, PROJECTOR, Variant("deep-model.v2")])
revisions = st.text("0123456789abcdef", min_size=40, max_size=40).map(Revision)
refs = st.builds(
    Ref,
    default=st.none() | variants,
    variants=st.dictionaries(variants, st.builds(Pointer, revisions, st.none() | revisions)),
)


def key_of(store: S3Store) -> str:
    return f"{store.label.split('/', 3)[3]}/refs/org--name.json"


def stored(store: S3Store) -> dict[str, Any]:
    body = store.client().get_object(Bucket=store.bucket, Key=key_of(store))["Body"].read()
    value: dict[str, Any] = json.loads(body)
    return value


def put(store: S3Store, scratch: Path, *ids: SnapshotId) -> None:
    for id in ids:
        publish(store, id.revision, {"m.gguf": str(id).encode()}, scratch, variant=id.variant)


@given(refs)
def test_a_ref_round_trips_through_json(ref: Ref) -> None:
    assert Ref.from_json(json.loads(json.dumps(ref.to_json()))) == ref


@given(refs, st.dictionaries(variants, revisions, min_size=1), st.booleans())
def test_a_ref_with_something_promoted_keeps_everything_else(
    ref: Ref, promoted: dict[Variant, Revision], default: bool
) -> None:
    ids = [SnapshotId(MODEL, revision, variant) for variant, revision in promoted.items()]
    after = ref.with_promoted(ids, default=ids[0].variant if default else None)
    assert after.default == (ids[0].variant if default else ref.default)
    for variant in ref.variants.keys() | promoted.keys():
        current = ref.variants.get(variant)
        if variant not in promoted or (current is not None and current.revision == promoted[variant]):
            assert after.variants[variant] == current
        else:
            assert after.variants[variant] == Pointer(promoted[variant], current.revision if current else None)
    assert after.with_promoted(ids, default=None) == after, "the same again is no change"


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        {},
        {"revision": A, "previous": None},
        {"default": None, "variants": []},
        {"default": None, "variants": {"../x": {"revision": A, "previous": None}}},
        {"default": None, "variants": {"Q8_0": {"revision": "../../etc", "previous": None}}},
        {"default": None, "variants": {"Q8_0": {"revision": A, "previous": "main"}}},
        {"default": None, "variants": {"Q8_0": {"revision": A}}},
        {"default": None, "variants": {"Q8_0": A}},
        {"default": "latest", "variants": {}},
        {"variants": {}},
    ],
)
def test_a_malformed_ref_raises_value_error(value: object) -> None:
    with pytest.raises(ValueError, match="not a ref"):
        Ref.from_json(value)


def test_the_object_holds_the_default_and_each_variant_with_its_previous_revision(
    s3_store: S3Store, scratch: Path
) -> None:
    put(s3_store, scratch, id_of(A), id_of(B), id_of(A, Q4))
    s3_store.promote([id_of(A)], default=id_of(A))
    s3_store.promote([id_of(A, Q4)])
    s3_store.promote([id_of(B)], default=id_of(B))
    assert stored(s3_store) == {
        "default": "Q8_0",
        "variants": {"Q4_K_M": {"revision": A, "previous": None}, "Q8_0": {"revision": B, "previous": A}},
    }


def test_a_worker_changes_only_what_it_promoted(s3_store: S3Store, client: S3Client, scratch: Path) -> None:
    other = S3Store(s3_store.label, client=client)
    put(s3_store, scratch, id_of(A), id_of(B), id_of(A, Q4), id_of(B, Q4), id_of(A, PROJECTOR))
    s3_store.promote([id_of(A), id_of(A, Q4)], default=id_of(A))
    other.promote([id_of(B, Q4)])
    assert other.promoted(MODEL) == Promoted(MODEL, Q8, {Q8: A, Q4: B})
    s3_store.promote([id_of(B)])
    assert s3_store.promoted(MODEL) == Promoted(MODEL, Q8, {Q8: B, Q4: B})
    other.promote([id_of(A, PROJECTOR)], default=id_of(A, PROJECTOR))
    assert s3_store.promoted(MODEL) == Promoted(MODEL, PROJECTOR, {Q8: B, Q4: B, PROJECTOR: A})
    s3_store.promote([], default=id_of(B))
    assert other.promoted(MODEL) == Promoted(MODEL, Q8, {Q8: B, Q4: B, PROJECTOR: A})


def test_a_ref_that_another_worker_wrote_meanwhile_is_read_again(
    s3_store: S3Store, client: S3Client, scratch: Path
) -> None:
    put(s3_store, scratch, id_of(A), id_of(A, Q4))
    other = S3Store(s3_store.label, client=client)
    waiting = [id_of(A, Q4)]

    def between(**_: Any) -> None:
        if waiting:  # right before our own ref is sent, and once
            other.promote([waiting.pop()], default=id_of(A, Q4))

    client.meta.events.register("before-parameter-build.s3.PutObject", between)
    try:
        s3_store.promote([id_of(A)])
    finally:
        client.meta.events.unregister("before-parameter-build.s3.PutObject", between)
    assert s3_store.promoted(MODEL) == Promoted(MODEL, Q4, {Q8: A, Q4: A})


def test_promoting_what_is_promoted_writes_nothing(s3_store: S3Store, client: S3Client, scratch: Path) -> None:
    put(s3_store, scratch, id_of(A), id_of(B))
    for id in (id_of(A), id_of(B)):
        s3_store.promote([id], default=id)
    before = client.head_object(Bucket=s3_store.bucket, Key=key_of(s3_store))
    s3_store.promote([id_of(B)], default=id_of(B))
    after = client.head_object(Bucket=s3_store.bucket, Key=key_of(s3_store))
    assert (after["ETag"], after["LastModified"]) == (before["ETag"], before["LastModified"])
    assert stored(s3_store)["variants"]["Q8_0"] == {"revision": B, "previous": A}, "it was not promoted again"


def test_a_default_that_the_ref_does_not_have_is_refused(s3_store: S3Store, scratch: Path) -> None:
    put(s3_store, scratch, id_of(A), id_of(A, Q4))
    s3_store.promote([id_of(A)], default=id_of(A))
    with pytest.raises(NotOnVolume, match="org/name:Q4_K_M is not promoted in"):
        s3_store.promote([], default=id_of(A, Q4))
    assert s3_store.promoted(MODEL) == Promoted(MODEL, Q8, {Q8: A})


def test_a_missing_snapshot_leaves_the_ref_unchanged(s3_store: S3Store, scratch: Path) -> None:
    put(s3_store, scratch, id_of(A), id_of(B))
    s3_store.promote([id_of(A)], default=id_of(A))
    with pytest.raises(NotOnVolume, match=str(id_of(C, Q4))):
        s3_store.promote([id_of(B), id_of(C, Q4)])
    assert s3_store.promoted(MODEL) == Promoted(MODEL, Q8, {Q8: A})


@pytest.mark.parametrize("text", [b"", b"{", b'{"revision": "../../etc"}', b"\xff", b'{"default": 1, "variants": 2}'])
def test_a_ref_that_cannot_be_read_counts_as_none_and_is_replaced(
    s3_store: S3Store, scratch: Path, text: bytes
) -> None:
    put(s3_store, scratch, id_of(A))
    s3_store.client().put_object(Bucket=s3_store.bucket, Key=key_of(s3_store), Body=text)
    assert s3_store.promoted(MODEL) == Promoted(MODEL)
    s3_store.promote([id_of(A)], default=id_of(A))
    assert s3_store.promoted(MODEL) == Promoted(MODEL, Q8, {Q8: A})


def test_a_default_whose_variant_is_gone_is_ignored(s3_store: S3Store) -> None:
    text = json.dumps(Ref(Q4, {Q8: Pointer(A)}).to_json()).encode()
    s3_store.client().put_object(Bucket=s3_store.bucket, Key=key_of(s3_store), Body=text)
    assert s3_store.promoted(MODEL) == Promoted(MODEL, None, {Q8: A})
