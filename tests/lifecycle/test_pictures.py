"""The pictures of a snapshot are drawn of its reports, kept in both formats on the volume and in the remote store, and
drawn again only when their figures change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from paddock.lifecycle import dossier, reports
from paddock.lifecycle.assess.validate import VALIDATION_REPORT
from paddock.lifecycle.clients import Clients
from paddock.lifecycle.run.picture_plan import Drawing, plan_pictures
from paddock.lifecycle.run.pictures import PICTURES, draw_pictures, read_pictures
from paddock.lifecycle.run.quality import QUALITY as QUALITY_REPORT
from paddock.lifecycle.run.stored_benchmarks import record_benchmark
from paddock.measure.benchmark_report import Benchmark
from paddock.measure.pictures.memory import MemoryBar
from paddock.measure.quality import KlDivergence
from paddock.model.artifact import Manifest
from paddock.model.reference import Variant
from paddock.store.remote import ObjectStore
from tests.support.directory_store.objects import DirectoryObjects
from tests.support.dossier_facts import BENCHMARK, QUALITY, VALIDATION
from tests.support.stores import Q4, Q8, A, B, publish
from tests.support.tiny_hub import MODEL


@pytest.fixture
def snapshot(clients: Clients) -> Manifest:
    return stored(clients, Q4)


def stored(clients: Clients, variant: Variant, *, age_s: float = 0, revision: str = A) -> Manifest:
    """A snapshot of the volume, whose file is no model: nothing here reads it."""
    clients.volume.prepare()
    content = {f"{variant}.gguf": f"{variant}{revision}".encode()}
    return publish(clients.volume, revision, content, Path(), model=MODEL, variant=variant, age_s=age_s)  # type: ignore[arg-type] # a Revision


def write_quality(clients: Clients, manifest: Manifest, reference: Manifest, kl: float) -> None:
    divergence = KlDivergence(kl, kl / 2, kl, kl, kl, (0.9 * kl, 1.1 * kl))
    quality = replace(QUALITY, model=str(manifest.id), reference=str(reference.id), kl_divergence=divergence)
    reports.write(clients, manifest, QUALITY_REPORT, quality.to_json())


def at(day: int, **changes: object) -> Benchmark:
    return replace(BENCHMARK, measured_at=f"2026-05-{day:02}T03:10:00+00:00", **changes)  # type: ignore[arg-type] # any field


def names(drawings: Sequence[Drawing]) -> list[str]:
    return [drawing.function.__name__.removeprefix("draw_") for drawing in drawings]


def test_pictures_are_kept_in_both_formats_and_drawn_again_when_their_figures_change(
    clients: Clients, snapshot: Manifest, tmp_path: Path
) -> None:
    remote = ObjectStore(DirectoryObjects(tmp_path / "remote", label="directory://remote"))
    clients = replace(clients, remote=remote)
    publish(remote, A, {"Q4_K_M.gguf": f"Q4_K_M{A}".encode()}, tmp_path, model=MODEL, variant=Q4)
    record_benchmark(clients, snapshot, BENCHMARK)
    first = draw_pictures(clients, snapshot, BENCHMARK)
    assert [file.name for file in first.files] == ["memory.png", "memory.svg", "throughput.png", "throughput.svg"]
    for file in first.files:
        content = Path(file.path).read_bytes()
        assert len(content) == file.size_bytes
        found = remote.objects.get(f"reports/{MODEL.slug}/{A}/Q4_K_M/{file.name}")
        assert found is not None
        assert found.content == content
    assert read_pictures(clients, snapshot) == first.pictures
    assert first.pictures[0].svg == clients.volume.read_report(snapshot.id, "memory.svg")
    assert first.line.startswith("2 pictures in ")

    def inodes() -> list[int]:
        return [Path(file.path).stat().st_ino for file in first.files]

    before = inodes()
    assert draw_pictures(clients, snapshot).pictures == first.pictures
    assert inodes() == before
    record_benchmark(clients, snapshot, at(2))
    second = draw_pictures(clients, snapshot)
    assert [picture.name for picture in second.pictures] == ["memory", "throughput", "runs"]
    assert inodes()[:2] == before[:2]
    assert inodes()[2] != before[2]

    written = dossier.write_dossier(clients, snapshot)
    assert [picture.name for picture in written.document.pictures] == ["memory", "throughput", "runs"]
    sections = {part.splitlines()[0]: part for part in written.markdown.split("## ")}
    assert "](memory.svg)" in sections["Memory"]
    assert sections["Benchmark"].count(".svg)") == 2


def test_where_another_result_stands_its_pictures_are_kept_and_those_of_the_new_one_are_returned(
    clients: Clients, snapshot: Manifest
) -> None:
    record_benchmark(clients, snapshot, BENCHMARK)
    disturbed = at(2, doubts=("other processes used 1.8 of 2 cores",))
    shown = draw_pictures(clients, snapshot, disturbed).pictures
    kept = read_pictures(clients, snapshot)
    assert [picture.name for picture in shown] == [picture.name for picture in kept] == ["memory", "throughput"]
    assert shown[0] == kept[0]
    assert "not reliable" in shown[1].alt
    assert "not reliable" not in kept[1].alt


def test_where_nothing_was_measured_nothing_is_drawn_or_written(clients: Clients, snapshot: Manifest) -> None:
    drawn = draw_pictures(clients, snapshot)
    assert (drawn.pictures, drawn.files) == ((), ())
    assert clients.volume.read_report(snapshot.id, PICTURES) is None
    assert drawn.line == "no pictures: nothing was measured"


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"pictures": [{}]}', "\x00"])
def test_a_report_of_pictures_that_cannot_be_read_counts_as_none(
    clients: Clients, snapshot: Manifest, damage: str
) -> None:
    clients.volume.write_report(snapshot.id, PICTURES, damage)
    assert read_pictures(clients, snapshot) == ()


def test_variants_are_compared_with_the_one_reference(clients: Clients, snapshot: Manifest) -> None:
    reference, other = stored(clients, Q8), stored(clients, Variant("Q2_K"))
    against_another = stored(clients, Variant("Q6_K"))
    older = stored(clients, Variant("Q2_K"), age_s=-60, revision=B)
    for manifest, kl in ((snapshot, 0.02), (other, 0.3), (older, 0.5)):
        write_quality(clients, manifest, reference, kl)
    write_quality(clients, against_another, snapshot, 0.001)
    (drawing,) = plan_pictures(clients, snapshot).drawings
    assert names([drawing]) == ["quality"]
    assert {variant.label: variant.kl for variant in drawing.arguments["variants"]} == {"Q4_K_M": 0.02, "Q2_K": 0.3}
    assert (drawing.arguments["reference"], drawing.arguments["reference_bytes"]) == ("Q8_0", reference.size_bytes)
    (of_reference,) = plan_pictures(clients, reference).drawings
    assert [variant.is_subject for variant in of_reference.arguments["variants"]] == [False, False]

    for manifest in (snapshot, other):
        record_benchmark(clients, manifest, BENCHMARK)
    record_benchmark(clients, against_another, replace(BENCHMARK, machine=replace(BENCHMARK.machine, cores=64)))
    drawings = plan_pictures(clients, snapshot).drawings
    assert names(drawings) == ["memory", "throughput", "quality", "pareto"]
    assert {choice.label for choice in drawings[-1].arguments["choices"]} == {"Q4_K_M", "Q2_K"}  # on one machine


def test_a_catalog_that_cannot_be_read_leaves_out_what_needs_prices(
    clients: Clients, snapshot: Manifest, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = replace(clients.settings, catalog=tmp_path / "missing.yaml")
    record_benchmark(clients, snapshot, BENCHMARK)
    assert names(plan_pictures(replace(clients, settings=settings), snapshot).drawings) == ["memory", "throughput"]
    assert "are not drawn: " in caplog.text


@pytest.mark.parametrize(
    ("target", "limit", "label"),
    [
        ("this-machine", None, "the limit is not recorded"),
        ("any", None, "no limit: the target is any machine"),
        ("64GiB", 64 * 2**30, "memory of 64GiB"),
        ("24GiB-gpu", 24 * 2**30 - 2**29, "GPU memory of 24GiB-gpu"),
        ("2x-24GiB-gpu", 48 * 2**30 - 2**30, "GPU memory of 2x-24GiB-gpu"),
        ("4GiB-gpu+32GiB", 36 * 2**30 - 2**29, "GPU and host memory of 4GiB-gpu+32GiB"),
    ],
)
def test_memory_is_compared_with_the_target_that_was_validated(
    clients: Clients, snapshot: Manifest, target: str, limit: int | None, label: str
) -> None:
    reports.write(clients, snapshot, VALIDATION_REPORT, replace(VALIDATION, target=target).to_json())
    (drawing,) = plan_pictures(clients, snapshot).drawings
    (use,) = drawing.arguments["uses"]
    assert isinstance(use, MemoryBar)
    assert (use.limit_bytes, use.limit_label) == (limit, label)
