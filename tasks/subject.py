"""Make the keys of artifacts, one for each model, variant, snapshot or store that an artifact is about.

The artifacts of a promoted snapshot have the key of its variant. Those of a snapshot that is not promoted while another
one is, those of a validation for another machine, and those of a benchmark that does not stand for the snapshot, have
keys of their own: they never replace the artifacts of what is served.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from hashlib import sha256

from paddock.errors import PaddockError
from paddock.lifecycle.clients import Clients, require_remote
from paddock.measure.benchmark_report import Benchmark
from paddock.model.names import ModelName
from paddock.model.reference import SnapshotId, artifact_key
from paddock.planning.targets import THIS_MACHINE


@dataclass(frozen=True, slots=True)
class ArtifactSubject:
    """What an artifact is about. `name` is shown to people; `identity` is hashed into the key."""

    model: ModelName
    name: str
    identity: str

    @classmethod
    def of(cls, clients: Clients, id: SnapshotId, target: str = THIS_MACHINE) -> ArtifactSubject:
        """A snapshot that was validated or benchmarked for a target."""
        promoted = clients.volume.promoted(id.model).of(id.variant)
        identity = id.name if promoted in {None, id} else str(id)
        return cls(id.model, id.short, identity + _suffix(target))

    @classmethod
    def of_model(cls, model: ModelName, target: str = THIS_MACHINE) -> ArtifactSubject:
        """A model, before a variant is chosen."""
        return cls(model, str(model), str(model) + _suffix(target))

    def beside(self, measured: Benchmark) -> ArtifactSubject:
        """The same for a result that does not stand for the snapshot: for another context, or disturbed."""
        name = f"{self.name} with {measured.parameters['n_ctx']} tokens of context"
        how = "" if measured.reliable else ", not reliable"
        return replace(self, name=name, identity=f"{self.identity} on {measured.machine.name}, {name}{how}")

    def key(self, kind: str) -> str:
        return artifact_key(kind, self.model, self.identity)


@dataclass(frozen=True, slots=True)
class StoreSubject:
    """The store that an artifact is about. `name` is shown to people; `identity` is hashed into the key."""

    name: str
    identity: str

    @classmethod
    def of_volume(cls, clients: Clients) -> StoreSubject:
        """The volume, by its own name, since other machines have another volume at the same path; by its path where it
        cannot be given a name, such as on a full disk."""
        label = clients.volume.label
        try:
            return cls(label, clients.volume.identity.name())
        except PaddockError:
            return cls(label, label)

    @classmethod
    def of_remote(cls, clients: Clients) -> StoreSubject:
        """The remote store, by its address, which is the same for every worker."""
        label = require_remote(clients).label
        return cls(label, label)

    def key(self, kind: str) -> str:
        slug = re.sub(r"[^a-z0-9]+", "-", self.name.removeprefix("the ").lower()).strip("-")
        return f"{kind}-{slug[:100]}-{sha256(self.identity.encode()).hexdigest()[:8]}"


def _suffix(target: str) -> str:
    return "" if target == THIS_MACHINE else f" for {target}"
