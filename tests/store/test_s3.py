"""S3 in particular: multipart uploads, request parameters, and the mapping of botocore's errors."""

from __future__ import annotations

import inspect
import io
import os
import pickle
import secrets
import signal
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from botocore import exceptions as aws
from mypy_boto3_s3 import S3Client

from infra.local.ports import free_ports
from infra.local.s3 import S3Server
from paddock.errors import BadSetting, CorruptFile, PaddockError, PermanentError, StoreRefused, StoreUnavailable
from paddock.store.copying import CopyResult, push
from paddock.store.s3 import S3Options
from paddock.store.s3.errors import store_error
from paddock.store.volume import Volume
from paddock.transfer.backends import Backend
from paddock.transfer.fetch import fetch
from paddock.transfer.options import Options
from tests.support.s3_proxy import S3Fault, proxied
from tests.support.stores import MODEL, A, B, S3Store, id_of, manifest_of, publish, put_blobs

SEGMENT_BYTES = 4 * 1024 * 1024
BIG = os.urandom(20 * 1024 * 1024)
SECRET = "do-not-show-this-secret"


def push_big(volume: Volume, store: S3Store, *, content: bytes = BIG) -> CopyResult:
    contents = {"big.gguf": content, "ünïcode.json": b"{}"}
    manifest = manifest_of(A, contents, segment_bytes=SEGMENT_BYTES)
    for content in contents.values():
        volume.add_bytes(content)
    volume.publish(manifest)
    return push(volume, store, manifest)


@contextmanager
def altered(client: S3Client, change: Callable[[Any], None]) -> Iterator[None]:
    """Change each part after it was signed."""

    def before_send(request: Any, **_: Any) -> None:
        change(request)

    client.meta.events.register("before-send.s3.UploadPart", before_send)
    try:
        yield
    finally:
        client.meta.events.unregister("before-send.s3.UploadPart", before_send)


def unfinished(store: S3Store) -> list[str]:
    listed = store.client().list_multipart_uploads(Bucket=store.bucket)
    prefix = store.label.split("/", 3)[3]
    return [upload["Key"] for upload in listed.get("Uploads", []) if upload["Key"].startswith(prefix)]


def test_a_blob_of_many_parts_arrives_whole_and_once(volume: Volume, s3_store: S3Store) -> None:
    assert push_big(volume, s3_store) == CopyResult("", bytes_transferred=len(BIG) + 2, blobs=2, already=0)
    assert push_big(volume, s3_store) == CopyResult("", bytes_transferred=0, blobs=0, already=2)
    manifest = s3_store.snapshot(id_of(A))
    assert manifest is not None
    source = s3_store.source(manifest.files[0], model=MODEL)
    with urllib.request.urlopen(source.address().url) as response:
        assert response.read() == BIG
    request = urllib.request.Request(source.address(renew=True).url, headers={"Range": "bytes=5000000-5000009"})
    with urllib.request.urlopen(request) as response:
        assert (response.status, response.read()) == (206, BIG[5000000:5000010])
    assert source.label == f"{s3_store.label}: org/name: big.gguf"
    assert "X-Amz" not in repr(source) + repr(source.address())


@pytest.mark.parametrize("backend", ["paddock", "hf_transfer", "xet"])
def test_an_object_is_a_source_for_each_backend(
    volume: Volume, s3_store: S3Store, tmp_path: Path, backend: Backend
) -> None:
    push_big(volume, s3_store)
    manifest = s3_store.snapshot(id_of(A))
    assert manifest is not None
    source = s3_store.source(manifest.files[0], model=MODEL)
    options = Options(connections=4, segment_bytes=SEGMENT_BYTES, backend=backend)
    staged = fetch(source, staging=tmp_path / "partial", options=options)
    assert staged is not None
    assert staged.path.read_bytes() == BIG
    assert staged.segments == manifest.files[0].segments


def test_progress_counts_the_bytes_that_were_sent(volume: Volume, s3_store: S3Store) -> None:
    manifest = manifest_of(A, {"big.gguf": BIG}, segment_bytes=SEGMENT_BYTES)
    volume.add_bytes(BIG)
    progress: list[int] = []
    push(volume, s3_store, manifest, progress=progress.append)
    assert sum(progress) == len(BIG)
    assert len(progress) == 3


def test_a_part_that_was_changed_in_transit_is_refused(volume: Volume, s3_store: S3Store) -> None:
    def corrupt(request: Any) -> None:
        body = request.body.read()
        request.body = io.BytesIO(b"\x00" + body[1:])

    with altered(s3_store.client(), corrupt), pytest.raises(StoreUnavailable, match=r"BadDigest|SHA256Mismatch"):
        push_big(volume, s3_store)
    assert s3_store.snapshot(id_of(A)) is None
    assert push_big(volume, s3_store).blobs == 2
    assert unfinished(s3_store) == []


def send_in_a_child(volume: Volume, store: S3Store, *, dies_after: int) -> None:
    """Send the big blob from a process that is killed before it sends one more part."""
    child = os.fork()
    if child == 0:
        sent = iter(range(dies_after))

        def before_send(**_: Any) -> None:
            if next(sent, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)

        one_at_a_time = S3Store(store.label, options=S3Options(connections=1))
        one_at_a_time.client().meta.events.register("before-send.s3.UploadPart", before_send)
        push_big(volume, one_at_a_time)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def test_an_upload_whose_process_was_killed_is_resumed(
    volume: Volume, s3_store: S3Store, environment: pytest.MonkeyPatch
) -> None:
    send_in_a_child(volume, s3_store, dies_after=2)
    assert len(unfinished(s3_store)) == 1
    last_part_bytes = len(BIG) - 2 * 8 * 1024 * 1024
    assert push_big(volume, s3_store) == CopyResult("", bytes_transferred=last_part_bytes + 2, blobs=2, already=0)
    assert unfinished(s3_store) == []
    manifest = s3_store.snapshot(id_of(A))
    assert manifest is not None
    with urllib.request.urlopen(s3_store.source(manifest.files[0]).address().url) as response:
        assert response.read() == BIG


def test_a_part_of_an_earlier_upload_that_has_other_bytes_is_sent_again(volume: Volume, s3_store: S3Store) -> None:
    key = f"{s3_store.label.split('/', 3)[3]}/blobs/sha256/{manifest_of(A, {'big.gguf': BIG}).files[0].sha256}"
    client = s3_store.client()
    upload = client.create_multipart_upload(Bucket=s3_store.bucket, Key=key)["UploadId"]
    wrong = bytes(8 * 1024 * 1024)
    client.upload_part(Bucket=s3_store.bucket, Key=key, UploadId=upload, PartNumber=1, Body=wrong)
    assert push_big(volume, s3_store).bytes_transferred == len(BIG) + 2
    assert client.get_object(Bucket=s3_store.bucket, Key=key)["Body"].read() == BIG


def test_an_upload_that_another_worker_removed_is_a_transient_error(volume: Volume, s3_store: S3Store) -> None:
    client = s3_store.client()

    def remove(**_: Any) -> None:
        for upload in client.list_multipart_uploads(Bucket=s3_store.bucket).get("Uploads", []):
            if upload["Key"].startswith(s3_store.label.split("/", 3)[3]):
                client.abort_multipart_upload(Bucket=s3_store.bucket, Key=upload["Key"], UploadId=upload["UploadId"])

    client.meta.events.register("before-send.s3.CompleteMultipartUpload", remove)
    try:
        with pytest.raises(StoreUnavailable, match="another worker ended the upload"):
            push_big(volume, s3_store)
    finally:
        client.meta.events.unregister("before-send.s3.CompleteMultipartUpload", remove)
    assert push_big(volume, s3_store).blobs == 2


def test_two_workers_can_send_the_same_blob_at_once(volume: Volume, s3_store: S3Store, client: S3Client) -> None:
    other = S3Store(s3_store.label, client=client)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda store: push_big(volume, store), (s3_store, other)))
    manifest = s3_store.snapshot(id_of(A))
    assert manifest is not None
    with urllib.request.urlopen(s3_store.source(manifest.files[0]).address().url) as response:
        assert response.read() == BIG
    assert unfinished(s3_store) == []


def test_keys_without_the_permission_to_list_uploads_can_send_a_blob(
    volume: Volume, s3: S3Server, s3_store: S3Store, environment: pytest.MonkeyPatch
) -> None:
    with proxied(s3.endpoint) as proxy:
        environment.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        proxy.faults = [S3Fault("status", ("GET",), "?uploads", status=403, code="AccessDenied")]
        assert push_big(volume, S3Store(s3_store.label)).bytes_transferred == len(BIG) + 2


def test_a_blob_is_stored_with_the_encryption_and_storage_class_that_were_set(
    volume: Volume, s3: S3Server, client: S3Client
) -> None:
    options = S3Options(encryption="AES256", storage_class="STANDARD_IA")
    store = S3Store(f"s3://{s3.bucket}/{secrets.token_hex(6)}", client=client, options=options)
    push_big(volume, store)
    store.promote([id_of(A)], default=id_of(A))
    prefix = store.label.split("/", 3)[3]
    listed = client.list_objects_v2(Bucket=s3.bucket, Prefix=prefix)["Contents"]
    heads = {item["Key"]: client.head_object(Bucket=s3.bucket, Key=item["Key"]) for item in listed}
    assert len(heads) == 4
    assert {head["ServerSideEncryption"] for head in heads.values()} == {"AES256"}
    assert {key for key, head in heads.items() if head.get("StorageClass") == "STANDARD_IA"} == {
        key for key in heads if "/blobs/" in key
    }
    manifest = store.snapshot(id_of(A))
    assert manifest is not None
    with urllib.request.urlopen(store.source(manifest.files[0]).address().url) as response:
        assert response.read() == BIG


@pytest.mark.parametrize(("path_style", "host"), [(True, "s3.example"), (False, "models.s3.example")])
def test_the_path_style_decides_where_the_bucket_is_in_the_address(
    environment: pytest.MonkeyPatch, path_style: bool, host: str
) -> None:
    environment.setenv("AWS_ENDPOINT_URL", "http://s3.example")
    store = S3Store("s3://models", options=S3Options(path_style=path_style))
    assert urlsplit(store.source(manifest_of(A, {"m": b"m"}).files[0]).address().url).hostname == host


def test_shared_blobs_count_once_in_the_real_size(s3_store: S3Store, scratch: Path) -> None:
    publish(s3_store, A, {"m.gguf": b"a" * 100, "config.json": b"shared"}, scratch)
    publish(s3_store, B, {"m.gguf": b"b" * 10, "config.json": b"shared"}, scratch)
    assert s3_store.sizes() == (122, 116)


def test_a_blob_that_is_damaged_on_the_volume_never_becomes_an_object(volume: Volume, s3_store: S3Store) -> None:
    manifest = manifest_of(A, {"big.gguf": BIG}, segment_bytes=SEGMENT_BYTES)
    volume.add_bytes(BIG)
    blob = volume.blob_path(manifest.files[0].sha256)
    blob.chmod(0o644)
    with blob.open("r+b") as file:
        file.seek(len(BIG) - 1)
        file.write(bytes([BIG[-1] ^ 1]))
    with pytest.raises(CorruptFile, match=r"big\.gguf.*in the segment at byte 16777216"):
        push(volume, s3_store, manifest)
    assert not s3_store.has_blob(manifest.files[0].sha256, len(BIG))
    assert s3_store.snapshot(id_of(A)) is None
    assert unfinished(s3_store) == []


def test_an_object_of_another_size_is_replaced(volume: Volume, s3_store: S3Store, scratch: Path) -> None:
    manifest = manifest_of(A, {"m.gguf": b"right"})
    key = f"{s3_store.label.split('/', 3)[3]}/blobs/sha256/{manifest.files[0].sha256}"
    s3_store.client().put_object(Bucket=s3_store.bucket, Key=key, Body=b"cut")
    publish(s3_store, A, {"m.gguf": b"right"}, scratch)
    assert s3_store.has_blob(manifest.files[0].sha256, 5)


def test_a_dropped_object_is_sent_again(s3_store: S3Store, scratch: Path) -> None:
    manifest = manifest_of(A, {"m.gguf": b"weights"})
    (file,) = manifest.files
    s3_store.drop_blob(file.sha256)
    put_blobs(s3_store, manifest, {"m.gguf": b"weights"}, scratch)
    s3_store.drop_blob(file.sha256)
    assert not s3_store.has_blob(file.sha256, file.size)
    put_blobs(s3_store, manifest, {"m.gguf": b"weights"}, scratch)
    assert s3_store.has_blob(file.sha256, file.size)


@pytest.mark.parametrize(
    "uri", ["", "models", "http://models", "s3://", "s3:///x", f"s3://key:{SECRET}@b", "s3://b/../x", "s3://b/a//b"]
)
def test_a_malformed_uri_is_refused_without_being_shown(uri: str) -> None:
    with pytest.raises(BadSetting) as caught:
        S3Store(uri)
    assert SECRET not in str(caught.value)


@pytest.fixture
def environment(s3: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("NO_PROXY", "*")
    return monkeypatch


def test_the_address_and_the_keys_come_from_the_environment(s3: S3Server, environment: pytest.MonkeyPatch) -> None:
    store = S3Store(f"s3://{s3.bucket}/{secrets.token_hex(4)}")
    store.check()
    assert store.snapshots() == []


@pytest.mark.parametrize(
    ("change", "cure"),
    [
        ({"AWS_SECRET_ACCESS_KEY": SECRET}, "AWS_ACCESS_KEY_ID"),
        ({"AWS_ACCESS_KEY_ID": "NOBODY", "AWS_SECRET_ACCESS_KEY": SECRET}, "AWS_ACCESS_KEY_ID"),
        ({"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, "AWS_ACCESS_KEY_ID"),
        ({"AWS_ENDPOINT_URL": "no address"}, "AWS_"),
    ],
    ids=["wrong secret", "unknown key", "no keys", "no address"],
)
def test_a_refusal_names_the_variable_to_set_and_shows_no_secret(
    s3: S3Server, environment: pytest.MonkeyPatch, change: dict[str, str], cure: str
) -> None:
    for name, value in change.items():
        if value:
            environment.setenv(name, value)
        else:
            environment.delenv(name)
    with pytest.raises(StoreRefused, match=cure) as caught:
        S3Store(f"s3://{s3.bucket}").check()
    assert SECRET not in str(caught.value)
    assert s3.secret_access_key not in str(caught.value)


def test_a_missing_bucket_is_refused(s3: S3Server, client: S3Client) -> None:
    with pytest.raises(StoreRefused, match="the bucket does not exist"):
        S3Store("s3://nobody-made-this", client=client).check()


def test_an_unreachable_server_is_reported_within_ten_seconds(s3: S3Server, environment: pytest.MonkeyPatch) -> None:
    environment.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_ports(1)[0]}")
    started = time.monotonic()
    with pytest.raises(StoreUnavailable, match="does not answer"):
        S3Store(f"s3://{s3.bucket}").check()
    assert time.monotonic() - started < 10


ERRORS = [
    kind
    for kind in vars(aws).values()
    if inspect.isclass(kind) and issubclass(kind, aws.BotoCoreError) and kind is not aws.BotoCoreError
]


@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.__name__)
def test_every_error_of_botocore_is_mapped(kind: type[Exception]) -> None:
    mapped = store_error(kind.__new__(kind), "s3://bucket")
    assert isinstance(mapped, StoreRefused | StoreUnavailable)
    assert mapped.cure
    assert str(pickle.loads(pickle.dumps(mapped))) == str(mapped)


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (500, "InternalError", StoreUnavailable),
        (503, "SlowDown", StoreUnavailable),
        (429, "Whatever", StoreUnavailable),
        (400, "RequestTimeout", StoreUnavailable),
        (400, "BadDigest", StoreUnavailable),
        (409, "OperationAborted", StoreUnavailable),
        (501, "NotImplemented", PermanentError),
        (507, "XMinioStorageFull", PermanentError),
        (403, "QuotaExceeded", PermanentError),
        (403, "AccessDenied", PermanentError),
        (403, "SignatureDoesNotMatch", PermanentError),
        (403, "RequestTimeTooSkewed", PermanentError),
        (404, "NoSuchBucket", PermanentError),
        (301, "PermanentRedirect", PermanentError),
    ],
)
def test_an_error_response_is_transient_or_permanent_by_its_code(
    status: int, code: str, expected: type[PaddockError]
) -> None:
    response: Any = {"Error": {"Code": code, "Message": SECRET}, "ResponseMetadata": {"HTTPStatusCode": status}}
    mapped = store_error(aws.ClientError(response, "PutObject"), "s3://bucket")
    assert isinstance(mapped, expected)
    assert code in str(mapped)
    assert SECRET not in str(mapped)
