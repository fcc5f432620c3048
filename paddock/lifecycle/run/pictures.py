"""Draw the pictures of a snapshot, and keep them beside its reports as PNG and as SVG.

    memory.png memory.svg ...   the pictures, on the volume, and in the remote store if that has the snapshot
    pictures.json               a report with their titles, texts and SVGs, for artifacts and the dossier

A picture is drawn again when its figures have changed. A file whose picture is not in `pictures.json` is an older one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from paddock.lifecycle import reports
from paddock.lifecycle.clients import Clients
from paddock.lifecycle.retries import Kind
from paddock.lifecycle.run.picture_plan import Drawing, plan_pictures
from paddock.lifecycle.steps import step
from paddock.measure.benchmark_report import Benchmark
from paddock.measure.pictures.picture import Picture
from paddock.model.artifact import Manifest
from paddock.model.units import counted, human_bytes
from paddock.store.protocol import RemoteStore, has_snapshot

PICTURES: Final = "pictures.json"


@dataclass(frozen=True, slots=True)
class KeptPicture:
    """A picture as `pictures.json` has it. `figures_sha256` identifies what was drawn, and `sizes` has the bytes of
    each file."""

    name: str
    title: str
    alt: str
    svg: str
    figures_sha256: str
    sizes: Mapping[str, int]

    @property
    def svg_file(self) -> str:
        return f"{self.name}.svg"

    @classmethod
    def of(cls, picture: Picture, figures_sha256: str) -> KeptPicture:
        sizes = {name: len(content) for name, content in picture.files()}
        return cls(picture.name, picture.title, picture.alt, picture.svg, figures_sha256, sizes)


@dataclass(frozen=True, slots=True)
class PictureFile:
    """A file of a picture on the volume."""

    name: str
    path: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Pictures:
    """The pictures of a snapshot, and their files; none where the volume cannot be written."""

    pictures: tuple[KeptPicture, ...]
    files: tuple[PictureFile, ...]

    @property
    def line(self) -> str:
        if not self.pictures:
            return "no pictures: nothing was measured"
        drawn = counted(len(self.pictures), "picture")
        if not self.files:
            return f"{drawn} drawn, and not kept: the volume cannot be written"
        size = human_bytes(sum(file.size_bytes for file in self.files))
        return f"{drawn} in {Path(self.files[0].path).parent}, {size}"

    def to_json(self) -> list[dict[str, Any]]:
        return [asdict(file) for file in self.files]


@step(Kind.STORE, "pictures", line=lambda pictures: pictures.line)
def draw_pictures(clients: Clients, manifest: Manifest, measured: Benchmark | None = None) -> Pictures:
    """Draw the figures of a snapshot's reports, and write the pictures. `measured` is a benchmark that has just been
    measured: where another one stands, the pictures of both are drawn, and those of `measured` are returned only."""
    plan = plan_pictures(clients, manifest)
    remote = clients.remote if clients.remote and has_snapshot(clients.remote, manifest.id) else None
    before = {one.figures_sha256: one for one in read_pictures(replace(clients, remote=None), manifest)}
    if remote and remote.read_report(manifest.id, PICTURES) != clients.volume.read_report(manifest.id, PICTURES):
        before = {}  # what one store lacks is written to both
    kept, drawn = _draw(plan.drawings, before)
    files: tuple[PictureFile, ...] = ()
    if kept:
        with clients.volume.recording():
            files = _write(clients, manifest, remote, kept, drawn)
    if measured is not None and not plan.stands(measured):
        known = {one.figures_sha256: one for one in kept}
        kept, _ = _draw(plan_pictures(clients, manifest, measured).drawings, known)
    return Pictures(tuple(kept), files)


def read_pictures(clients: Clients, manifest: Manifest) -> tuple[KeptPicture, ...]:
    """The pictures that were last written; empty where there are none."""
    return reports.read(clients, manifest, PICTURES, _parse) or ()


def _draw(drawings: Sequence[Drawing], known: Mapping[str, KeptPicture]) -> tuple[list[KeptPicture], list[Picture]]:
    """(all pictures, those of them that were drawn now)."""
    kept, drawn = [], []
    for drawing in drawings:
        figures = drawing.figures_sha256
        if figures in known:
            kept.append(known[figures])
        elif picture := drawing.draw():
            drawn.append(picture)
            kept.append(KeptPicture.of(picture, figures))
    return kept, drawn


def _write(
    clients: Clients,
    manifest: Manifest,
    remote: RemoteStore | None,
    kept: Sequence[KeptPicture],
    drawn: Sequence[Picture],
) -> tuple[PictureFile, ...]:
    """Write the files of the pictures that were drawn, and then the report on all of them."""
    for name, content in (file for picture in drawn for file in picture.files()):
        clients.volume.write_report(manifest.id, name, content)
        if remote is not None:
            remote.write_report(manifest.id, name, content)
    path = reports.write(clients, manifest, PICTURES, {"pictures": [asdict(one) for one in kept]})
    if remote is not None:
        reports.share(clients, manifest, PICTURES)
    directory = Path(path).parent
    return tuple(
        PictureFile(name, str(directory / name), size) for picture in kept for name, size in picture.sizes.items()
    )


def _parse(value: dict[str, Any]) -> tuple[KeptPicture, ...]:
    return tuple(KeptPicture(**picture) for picture in value["pictures"])
