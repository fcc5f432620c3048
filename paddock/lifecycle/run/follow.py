"""Follow a name on the volume for a running server: what it stands for, and a plan beside the engines that are loaded.

A new revision gets the plan that it would get on this machine alone. Where that very plan also fits beside the loaded
engines, the server needs no pause; it is never reduced for that.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from paddock.errors import CorruptFile, DoesNotFit, NotOnVolume
from paddock.lifecycle.assess.verified import open_snapshot
from paddock.lifecycle.clients import Clients
from paddock.model.artifact import Manifest
from paddock.model.hardware import Machine, this_machine
from paddock.model.reference import Reference, SnapshotId, same_variant
from paddock.planning.fitting import check_fits, read_footprint
from paddock.planning.placement import gpu_bytes
from paddock.serving.spec import ServeSpec
from paddock.serving.switch.follow import FollowedName, PreparedRevision, Stored
from paddock.serving.switch.revision import EngineMemory
from paddock.store.open_snapshot import OpenSnapshot, open_stored
from paddock.store.volume import Volume

_CUDA_CONTEXT_BYTES = 600 * 2**20
"""GPU memory that an engine holds on each GPU that it uses, beside its buffers; at least that much was measured."""


MakeSpec = Callable[[Manifest, Path, Machine], ServeSpec]
"""Plans a snapshot in a directory for a machine. Raises PaddockError."""
OpenFiles = Callable[[Manifest], AbstractContextManager[OpenSnapshot]]
"""Opens the files of a snapshot, and compares them with its manifest. Raises PaddockError."""


def followed_name(clients: Clients, wanted: Reference | None, served: SnapshotId, plan: MakeSpec) -> FollowedName:
    """Return the name that a server of the snapshot `served` follows. It stands for that snapshot for ever if `wanted`
    has a revision or is None, or with PADDOCK_FOLLOW_PROMOTION=0."""
    open_files: OpenFiles = partial(open_snapshot, clients, at_end=False)
    if wanted is None or wanted.ref is not None or not clients.settings.follow_promotion:
        return PromotedName(clients.volume, served.reference, plan, fixed=served, open_files=open_files)
    spelled = replace(wanted, model=clients.volume.spelled(wanted.model))
    return PromotedName(clients.volume, spelled, plan, open_files=open_files)


class PromotedName(FollowedName):
    """The snapshot that `org/name` or `org/name:VARIANT` stands for on a volume; always `fixed` if that is given."""

    def __init__(
        self,
        volume: Volume,
        wanted: Reference,
        plan: MakeSpec,
        *,
        machine: Callable[[], Machine] = this_machine,
        fixed: SnapshotId | None = None,
        open_files: OpenFiles | None = None,
    ) -> None:
        self._volume = volume
        self._wanted = wanted
        self._plan = plan
        self._machine = machine
        self._fixed = fixed
        self._open_files = open_files or partial(open_stored, volume, at_end=False)
        self._state: tuple[object, SnapshotId | None] | None = None
        self._manifests: dict[SnapshotId, Manifest | None] = {}

    def promoted(self) -> SnapshotId | None:
        """Return the snapshot that the name stands for, or None. Links and history are read only after a change."""
        if self._fixed is not None:
            return self._fixed
        fingerprint = self._volume.promotions.fingerprint(self._wanted.model)
        if self._state is None or self._state[0] != fingerprint:
            self._state = fingerprint, self._read()
        return self._state[1]

    def stored(self, id: SnapshotId, inodes: Collection[tuple[int, int]]) -> Stored:
        """Compare the loaded files with those of the snapshot and with the blobs.

        A blob that is gone without a damaged copy was deleted by a person: what is loaded is sound. So is a snapshot
        that is gone, or whose manifest is, as far as is known.
        """
        volume = self._volume
        if id not in self._manifests:
            with suppress(CorruptFile):
                self._manifests[id] = volume.snapshot(id)
        manifest, snapshot = self._manifests.get(id), volume.snapshot_path(id)
        if manifest is None or volume.inode(snapshot) is None:
            return Stored.SOUND
        replaced = set(inodes)
        for file in manifest.files if replaced else ():
            shown, blob = volume.inode(snapshot / file.path), volume.inode(volume.blob_path(file.sha256))
            if shown in replaced and shown != blob and volume.quarantined(file.sha256):
                return Stored.DAMAGED
            replaced -= {shown, blob}
        if not replaced:
            return Stored.SOUND
        try:
            volume.require_undamaged(id)
        except CorruptFile:
            return Stored.DAMAGED
        return Stored.REPAIRED

    def _read(self) -> SnapshotId | None:
        promoted, wanted = self._volume.promoted(self._wanted.model), self._wanted.variant
        if wanted is None:
            return promoted.default_id
        return next((id for id in promoted.ids if same_variant(id.variant, wanted)), None)

    def prepare(self, id: SnapshotId, loaded: Sequence[EngineMemory]) -> PreparedRevision:
        """Lease, open and plan a snapshot. Raises NotOnVolume, DoesNotFit, and as `plan`."""
        with ExitStack() as lease:
            lease.enter_context(self._volume.lease(id))
            manifest = self._volume.snapshot(id)
            if manifest is None:
                raise NotOnVolume(f"{id} is not on {self._volume.label}", cure="pull it")
            opened = lease.enter_context(self._open_files(manifest))
            machine = self._machine()
            spec = self._plan(manifest, opened.directory, without_engines(machine, loaded))
            spec = replace(spec, check_files=opened.require_unchanged)
            beside = _fits(spec, beside_engines(machine, loaded))
            return PreparedRevision(spec, beside, lease.pop_all().close)


def without_engines(machine: Machine, loaded: Sequence[EngineMemory]) -> Machine:
    """The machine as it will be when these engines have ended."""
    ram = machine.ram_available_bytes + sum(engine.held_bytes for engine in loaded)
    gpus = machine.gpus
    for engine in loaded:
        if gpus and engine.spec.on_gpu:
            spec = engine.spec
            vram = tuple(gpu.vram_bytes for gpu in gpus)
            used = gpu_bytes(read_footprint(spec.file), spec.parameters, spec.memory, vram)
            gpus = tuple(
                replace(gpu, vram_available_bytes=min(gpu.vram_available_bytes + size, gpu.vram_bytes))
                for gpu, size in zip(gpus, (size and size + _CUDA_CONTEXT_BYTES for size in used), strict=True)
            )
    return replace(machine, ram_available_bytes=min(ram, machine.ram_bytes), gpus=gpus)


def beside_engines(machine: Machine, loaded: Sequence[EngineMemory]) -> Machine:
    """The machine without what these engines need and do not hold yet: the system counts pages of a mapped file, and
    memory that was not written to, as available."""
    ram = machine.ram_available_bytes - sum(_needed_bytes(engine) for engine in loaded)
    return replace(machine, ram_available_bytes=max(ram, 0))


def _needed_bytes(engine: EngineMemory) -> int:
    mapped = engine.resident_bytes - engine.held_bytes
    if engine.spec.on_gpu:  # the plan does not say how much of it is on the host
        return mapped
    return max(engine.spec.memory.total_bytes - engine.held_bytes, 0)


def _fits(spec: ServeSpec, machine: Machine) -> bool:
    try:
        check_fits(spec.file, spec.parameters, spec.memory, machine)
    except DoesNotFit:
        return False
    return True
