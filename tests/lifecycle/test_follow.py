"""Which snapshot a server follows, and the memory that a new engine has beside or instead of the loaded ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from paddock.engine.oracle import Memory
from paddock.engine.parameters import Parameters
from paddock.lifecycle.clients import Clients, connect
from paddock.lifecycle.run.follow import PromotedName, beside_engines, followed_name, without_engines
from paddock.model.artifact import Manifest
from paddock.model.gpu import Gpu
from paddock.model.hardware import Machine
from paddock.model.names import ModelName, Sha256
from paddock.model.reference import Reference, SnapshotId
from paddock.serving.spec import ServeSpec
from paddock.serving.switch.follow import Stored
from paddock.serving.switch.revision import EngineMemory
from paddock.settings import Settings
from paddock.store.history import Promoted
from paddock.store.volume import Volume
from tests.support.gguf import tiny_llama
from tests.support.serving import make_serve_spec
from tests.support.stores import MODEL, Q4, Q8, A, B, publish

GIB = 2**30
MIB = 2**20


@pytest.fixture(scope="module")
def clients(tmp_path_factory: pytest.TempPathFactory) -> Clients:
    """A volume with two variants of two revisions, of which `Q8_0` at A is the default and Q4_K_M at A promoted."""
    root = tmp_path_factory.mktemp("follow")
    clients = connect(Settings(volume=root / "models"))
    clients.volume.prepare()
    for variant in (Q4, Q8):
        for revision in (A, B):
            publish(clients.volume, revision, {f"{variant}.gguf": variant.encode()}, root / "scratch", variant=variant)
        clients.volume.promote(SnapshotId(MODEL, A, variant), reason="first")
    return clients


def no_plan(manifest: Manifest, snapshot: Path, machine: Machine) -> ServeSpec:
    raise AssertionError(f"{manifest.id} in {snapshot} is not planned for {machine}")


@pytest.mark.parametrize(
    ("name", "seen"),
    [
        ("org/name", [(A, Q8), (A, Q4), (B, Q4), (A, Q4), (A, Q8), (B, Q8), (A, Q8)]),
        ("Org/Name", [(A, Q8), (A, Q4), (B, Q4), (A, Q4), (A, Q8), (B, Q8), (A, Q8)]),
        ("org/name:q4_k_m", [(A, Q4), (A, Q4), (B, Q4), (A, Q4), (A, Q4), (A, Q4), (A, Q4)]),
        ("org/name:Q8_0", [(A, Q8), (A, Q8), (A, Q8), (A, Q8), (A, Q8), (B, Q8), (A, Q8)]),
        ("org/name:Q2_K", [None] * 7),
    ],
)
def test_a_server_follows_the_name_that_it_was_given(
    clients: Clients, name: str, seen: list[tuple[str, str] | None]
) -> None:
    volume = clients.volume
    followed = followed_name(clients, Reference.parse(name), SnapshotId(MODEL, A, Q8), no_plan)
    found = [followed.promoted()]
    for revision, variant in ((A, Q4), (B, Q4)):
        volume.promote(SnapshotId(MODEL, revision, variant), reason="test")
        found.append(followed.promoted())
    volume.rollback(MODEL, reason="test")
    found.append(followed.promoted())
    for revision in (A, B, A):
        volume.promote(SnapshotId(MODEL, revision, Q8), reason="test")
        found.append(followed.promoted())
    assert [one and (one.revision, one.variant) for one in found] == seen


@pytest.mark.parametrize("name", [f"org/name@{A}", f"org/name:Q8_0@{A[:8]}"])
def test_a_revision_in_the_name_follows_nothing(clients: Clients, name: str) -> None:
    served = SnapshotId(MODEL, A, Q8)
    followed = followed_name(clients, Reference.parse(name), served, no_plan)
    clients.volume.promote(SnapshotId(MODEL, B, Q8), reason="test")
    assert followed.promoted() == served
    clients.volume.promote(served, reason="test")


def test_a_setting_switches_it_off(clients: Clients) -> None:
    fixed = replace(clients, settings=replace(clients.settings, follow_promotion=False))
    served = SnapshotId(MODEL, A, Q8)
    followed = followed_name(fixed, Reference.parse("org/name"), served, no_plan)
    clients.volume.promote(SnapshotId(MODEL, B, Q8), reason="test")
    assert followed.promoted() == served
    clients.volume.promote(served, reason="test")


def inodes(volume: Volume, sha256: Sha256) -> set[tuple[int, int]]:
    inode = volume.inode(volume.blob_path(sha256))
    return {inode} if inode else set()


@pytest.mark.parametrize("name", ["org/name", f"org/name@{A}", None])
def test_a_server_learns_that_its_files_were_damaged_and_repaired(clients: Clients, name: str | None) -> None:
    volume, served = clients.volume, SnapshotId(MODEL, A, Q8)
    manifest = volume.snapshot(served)
    assert manifest is not None
    (file,) = manifest.files
    content = volume.blob_path(file.sha256).read_bytes()
    followed = followed_name(clients, Reference.parse(name) if name else None, served, no_plan)
    loaded = inodes(volume, file.sha256)
    assert followed.stored(served, loaded) is Stored.SOUND
    volume.quarantine(file.sha256)
    assert followed.stored(served, loaded) is Stored.DAMAGED
    volume.add_bytes(content)
    assert followed.stored(served, loaded) is Stored.DAMAGED, "its snapshot has the damaged file still"
    volume.publish(manifest)
    assert followed.stored(served, loaded) is Stored.REPAIRED
    volume.drop_quarantined(file.sha256)
    assert followed.stored(served, inodes(volume, file.sha256)) is Stored.SOUND


def test_a_blob_that_a_person_deleted_does_not_stop_a_server(clients: Clients) -> None:
    served = SnapshotId(MODEL, A, Q8)
    manifest = clients.volume.snapshot(served)
    assert manifest is not None
    (file,) = manifest.files
    followed = followed_name(clients, None, served, no_plan)
    loaded = inodes(clients.volume, file.sha256)
    blob = clients.volume.blob_path(file.sha256)
    blob.unlink()
    assert followed.stored(served, loaded) is Stored.SOUND
    clients.volume.add_link(clients.volume.snapshot_path(served) / file.path, file.sha256, file.size)
    assert clients.volume.has_blob(file.sha256, file.size)


class CountingVolume(Volume):
    reads = 0

    def promoted(self, model: ModelName) -> Promoted:
        self.reads += 1
        return super().promoted(model)


def test_a_look_without_a_change_reads_no_history(clients: Clients) -> None:
    volume = CountingVolume(clients.volume.root)
    followed = PromotedName(volume, Reference(MODEL), no_plan)
    assert followed.promoted() == followed.promoted() == SnapshotId(MODEL, A, Q8)
    assert volume.reads == 1


@pytest.fixture(scope="module")
def on_cpu(tmp_path_factory: pytest.TempPathFactory) -> ServeSpec:
    path = tiny_llama(layers=4).write(tmp_path_factory.mktemp("tiny") / "tiny-Q8_0.gguf")
    return replace(make_serve_spec(path, context_tokens=256), memory=Memory(2 * GIB, GIB, GIB, 0, "engine", ("CPU",)))


def test_what_the_system_can_take_from_a_loaded_engine_is_not_free_for_another(on_cpu: ServeSpec) -> None:
    """Of 4 GiB planned the engine holds 1.5 GiB; the rest are pages of its file, and buffers not written to yet."""
    machine = Machine("cpu", 2, 16 * GIB, 10 * GIB)
    engine = EngineMemory(on_cpu, resident_bytes=3 * GIB, held_bytes=3 * GIB // 2)
    assert beside_engines(machine, [engine]).ram_available_bytes == 10 * GIB - 5 * GIB // 2
    assert beside_engines(machine, [engine] * 5).ram_available_bytes == 0
    assert without_engines(machine, [engine]).ram_available_bytes == 10 * GIB + 3 * GIB // 2
    assert without_engines(machine, [engine] * 5).ram_available_bytes == 16 * GIB


def test_the_gpu_memory_of_a_loaded_engine_is_free_once_it_has_ended(on_cpu: ServeSpec) -> None:
    """The two GPUs have 40 GiB each. The first holds the engine's layers, as `tensor_split` says."""
    memory = Memory(20 * GIB, 4 * GIB, GIB, 0, "engine", ("CUDA0", "CUDA1"))
    parameters = Parameters(n_ctx=256, n_threads=1, n_gpu_layers=-1, tensor_split=(1.0, 0.0))
    engine = EngineMemory(replace(on_cpu, memory=memory, parameters=parameters), 3 * GIB, GIB)
    gpus = (Gpu("g", 40 * GIB, 30 * GIB), Gpu("g", 40 * GIB, 39 * GIB))
    machine = Machine("cpu", 2, 16 * GIB, 10 * GIB, gpus)
    first, second = without_engines(machine, [engine]).gpus
    assert 35 * GIB < first.vram_available_bytes <= 40 * GIB
    assert second.vram_available_bytes == 39 * GIB
    assert beside_engines(machine, [engine]).gpus == gpus
    assert beside_engines(machine, [engine]).ram_available_bytes == 8 * GIB  # its mapped pages
