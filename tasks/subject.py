"""The subject of an artifact, and its key.

What stands for a promoted snapshot has the key of its variant. A snapshot that is not promoted while another one is,
and a judgement for another machine than the one that serves, have keys of their own: they are looked at beside what
stands, and never replace it."""

from __future__ import annotations

from dataclasses import dataclass

from paddock.lifecycle.clients import Clients
from paddock.model.names import ModelName
from paddock.model.reference import SnapshotId, artifact_key
from paddock.planning.targets import THIS_MACHINE


@dataclass(frozen=True, slots=True)
class ArtifactSubject:
    """`name` is for people; `identity` is what the key is made of."""

    model: ModelName
    name: str
    identity: str

    @classmethod
    def of(cls, clients: Clients, id: SnapshotId, target: str = THIS_MACHINE) -> ArtifactSubject:
        """A snapshot, judged or measured for a target."""
        stands = clients.volume.promoted(id.model).of(id.variant)
        identity = id.name if stands in {None, id} else str(id)
        return cls(id.model, id.short, identity + _suffix(target))

    @classmethod
    def of_model(cls, model: ModelName, target: str = THIS_MACHINE) -> ArtifactSubject:
        """A model, before a variant is chosen."""
        return cls(model, str(model), str(model) + _suffix(target))

    def key(self, kind: str) -> str:
        return artifact_key(kind, self.model, self.identity)


def _suffix(target: str) -> str:
    return "" if target == THIS_MACHINE else f" for {target}"
