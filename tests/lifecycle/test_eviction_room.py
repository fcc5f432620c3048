"""A fetch that does not fit evicts what has a copy in S3, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.local.hub import HubService
from tests.support.namespaces import in_namespace
from tests.support.segmented_model import segmented_model
from tests.support.tiny_hub import NAME, use_hub

SMALL_DISK = 'mkdir -p "$root" && mount -t tmpfs -o size=8m none "$root"'
SETUP = """
import json, logging, re, subprocess
from dataclasses import replace
from paddock.lifecycle.acquire.pull import pull
from paddock.lifecycle.acquire.restore import restore
from paddock.lifecycle.clients import connect
from paddock.lifecycle.eviction.facts import Fetching
from paddock.lifecycle.eviction.room import make_room
from paddock.lifecycle.steps import PlainRunner
from paddock.model.derived_files import DERIVED_FILES
from paddock.model.reference import Reference
from paddock.planning.targets import UNBOUNDED
from paddock.store.copying import push
from paddock.store.remote import ObjectStore
from tests.support.aged import DAY_S, age, use
from tests.support.directory_store.objects import DirectoryObjects

log = logging.basicConfig(stream=sys.stdout, format="%(message)s")
OLD, TINY = ModelName.parse("org/old"), ModelName.parse("org/tiny-GGUF")
remote = ObjectStore(DirectoryObjects(root.parent / "bucket", label="directory://test"))
clients = replace(connect(), remote=remote)
volume = clients.volume
volume.prepare()

def old(revision, size, *, copied):
    number = "abcdef".index(revision[0])
    manifest = publish(volume, revision, {"m.gguf": bytes([number]) * size}, root.parent, model=OLD, age_s=number)
    if copied:
        push(volume, remote, manifest)
    return manifest

def stored():
    return [manifest.id.short for manifest in volume.snapshots()]

def fetch():
    pulled = pull(clients, Reference.parse("org/tiny-GGUF"), target=UNBOUNDED)
    print(json.dumps([row["model"] + " " + row["revision"][:1] for row in pulled.to_json()["evicted"]]))

def refused(work):
    before = stored()
    try:
        work()
    except NotEnoughDisk as error:
        print(error)
        print(stored() == before, list(volume.partial.iterdir()))
        return str(error)

def room():
    make_room(clients, 2636064, files=3, fetching=Fetching(id_of(A, model=TINY)))
"""


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch, hub: HubService, tmp_path: Path) -> Path:
    """A directory with a Hub that has a model of 2.7 MB; the volume is still to be mounted."""
    use_hub(monkeypatch, hub, tmp_path)
    monkeypatch.setenv("PADDOCK_KEEP_REVISIONS", "0")
    hub.repository(NAME).commit({"tiny-Q8_0.gguf": segmented_model(layers=1)})
    return tmp_path


def test_a_fetch_evicts_just_enough_of_what_has_a_copy_in_s3(home: Path) -> None:
    out = in_namespace(
        home,
        SMALL_DISK,
        SETUP
        + """
mib = 1024 * 1024
kept = old(C, mib, copied=False)
first, second = old(A, 2 * mib, copied=True), old(B, 2 * mib, copied=True)
third = old("d" * 40, 2 * mib, copied=True)
volume.promote(third.id, reason="a test")
age(volume)
use(volume, first.id, ago_s=DAY_S)
fetch()
(pulled,) = volume.snapshots(TINY)
push(volume, remote, pulled)
volume.remove(TINY)
old(B, 2 * mib, copied=True)
age(volume)
restored = restore(PlainRunner(clients), pulled.id.reference)
sent = sum(file.size for file in pulled.files if file.path not in DERIVED_FILES)  # the others are made anew
print([row["revision"][:1] for row in restored.to_json()["evicted"]], restored.transferred_bytes == sent)
print(sorted(stored()) == [first.id.short, kept.id.short, third.id.short, pulled.id.short])
""",
    )
    lines = out.splitlines()
    warning = next(line for line in lines if "was evicted" in line)
    assert warning == (
        "org/old:Q8_0@bbbbbbbb was evicted, 2.0 MiB freed: a fetch needs room; a verified copy is in S3;"
        " never used, published 2026-01-01"
    )
    assert [line for line in lines if line.startswith("[")] == ['["org/old b"]', "['b'] True"]
    assert lines[-1] == "True"


def test_where_nothing_may_go_a_fetch_fails_before_its_first_byte_and_the_cure_works(home: Path) -> None:
    out = in_namespace(
        home,
        SMALL_DISK,
        SETUP
        + """
mib = 1024 * 1024
first, second, third = old(A, 2 * mib, copied=False), old(B, 2 * mib, copied=True), old(C, 2 * mib, copied=False)
volume.promote(third.id, reason="a test")
volume.pins.add(second.id)
age(volume)
refused(room)
volume.pins.remove(second.id)
volume.pins.add(first.id)
with volume.lease(second.id):
    refused(room)
volume.promote(second.id, reason="a test")
volume.pins.remove(first.id)
small = old("d" * 40, mib // 2, copied=True)
age(volume)
refused(room)
volume.remove(OLD, revision=small.revision)
message = refused(fetch)
command = re.search("`paddock (gc --keep-bytes [0-9]+)`", message)[1].split()
subprocess.run([sys.executable, "-m", "paddock", *command], check=True)
fetch()
""",
    )
    lines = out.splitlines()
    errors = [line for line in lines if "are missing" in line]
    rest = "2.0 MiB (no verified copy in S3), 2.0 MiB (the model's default), 2.0 MiB (the target of a rollback)"
    assert [error.partition("; ")[2].partition(": `")[0].partition(": free")[0] for error in errors] == [
        "nothing may be evicted for it; what stays: 2.0 MiB (no verified copy in S3), 2.0 MiB (pinned),"
        " 2.0 MiB (the model's default)",
        "nothing may be evicted for it; what stays: 2.0 MiB (pinned), 2.0 MiB (in use), 2.0 MiB (the model's default)",
        f"nothing was evicted, since only 512.0 KiB may go for it; what stays: {rest}",
        f"nothing may be evicted for it; what stays: {rest}",
    ]
    assert errors[1].endswith("free space there (`paddock rm`), or choose a smaller quantization")
    assert lines.count("True []") == 4, "nothing was evicted, and no byte was fetched"
    assert lines[-1] == "[]", "after the command of the cure the fetch fits"
