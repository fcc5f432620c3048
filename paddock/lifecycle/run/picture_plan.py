"""Plan the pictures of a snapshot: which figures are known of it, and what is drawn of them.

Everything is read from stored reports. What was not measured has no picture.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

from paddock.engine.oracle import MARGIN_BYTES
from paddock.errors import BadCatalog, NoPermission, NoSuchFile
from paddock.lifecycle.assess.validate import Validation, read_validation
from paddock.lifecycle.clients import Clients
from paddock.lifecycle.run.cost import cost_of_model
from paddock.lifecycle.run.quality import read_quality
from paddock.lifecycle.run.stored_benchmarks import benchmark_history, planned_context, standing
from paddock.measure.benchmark_report import Benchmark
from paddock.measure.pictures.latency import draw_latency
from paddock.measure.pictures.memory import MemoryBar, draw_memory
from paddock.measure.pictures.pareto import Choice, draw_pareto
from paddock.measure.pictures.picture import Picture
from paddock.measure.pictures.quality import VariantQuality, draw_quality
from paddock.measure.pictures.runs import PastRun, draw_runs
from paddock.measure.pictures.throughput import draw_throughput, where
from paddock.measure.quality import Quality
from paddock.model.artifact import Manifest
from paddock.model.hardware import Machine
from paddock.planning.placement import GPU_MARGIN_BYTES
from paddock.planning.targets import ANY, THIS_MACHINE, parse_target
from paddock.version import VERSION

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Drawing:
    """A picture to draw: the function that draws it, and its arguments, which have a `repr` of their values."""

    function: Callable[..., Picture | None]
    arguments: dict[str, Any]

    @property
    def figures_sha256(self) -> str:
        """Identifies the figures and the version that draws them: the same ones give the same picture."""
        return sha256(repr((VERSION, self.function.__name__, self.arguments)).encode()).hexdigest()

    def draw(self) -> Picture | None:
        return self.function(**self.arguments)


@dataclass(frozen=True, slots=True)
class PicturePlan:
    """The pictures to draw. `result` is the benchmark that they show; None where there is none."""

    drawings: tuple[Drawing, ...]
    result: Benchmark | None

    def stands(self, measured: Benchmark) -> bool:
        """Whether a benchmark is the one that the pictures show."""
        shown = self.result
        return shown is not None and (shown.measured_at, shown.results) == (measured.measured_at, measured.results)


def plan_pictures(clients: Clients, manifest: Manifest, measured: Benchmark | None = None) -> PicturePlan:
    """Plan the pictures of a snapshot, with `measured` in place of the benchmark that stands."""
    history = _history(clients, manifest)
    own = [result for one, result in history if one.id == manifest.id]
    result = measured or standing(own, planned_context(clients, manifest) if own else 0)
    drawings = (
        *_memory(manifest, read_validation(clients, manifest), result),
        *(_throughput(manifest, result) if result else ()),
        *_latency(manifest, [*own, *([measured] if measured else [])]),
        *_quality(clients, manifest),
        *_pareto(clients, manifest, result),
        *_runs(manifest, history),
    )
    return PicturePlan(drawings, result)


def _memory(manifest: Manifest, validation: Validation | None, result: Benchmark | None) -> Iterator[Drawing]:
    uses = []
    if validation is not None and (validation.target != THIS_MACHINE or result is None):
        uses.append(_planned(validation))
    if result is not None:
        uses.append(_loaded(result))
    if uses:
        yield Drawing(draw_memory, {"uses": uses, "title": f"Memory of {manifest.id.short}"})


def _planned(validation: Validation) -> MemoryBar:
    label = f"planned, {validation.context_tokens} tokens"
    memory, name = validation.memory, validation.target
    if name in {THIS_MACHINE, ANY}:
        unknown = "the limit is not recorded" if name == THIS_MACHINE else "no limit: the target is any machine"
        return MemoryBar(label, memory, MARGIN_BYTES, None, unknown)
    target = parse_target(name)
    assert target is not None  # noqa: S101 (this machine is handled above)
    margin, limit, where = MARGIN_BYTES, target.ram_bytes, f"memory of {name}"
    if target.vram_bytes:
        margin, limit = len(target.vram_bytes) * GPU_MARGIN_BYTES, sum(target.vram_bytes)
        where = f"GPU memory of {name}"
        if memory.total_bytes + margin > limit:  # the rest is on the host
            margin, limit = margin + MARGIN_BYTES, limit + target.ram_bytes
            where = f"GPU and host memory of {name}"
    return MemoryBar(label, memory, margin, limit, where)


def _loaded(result: Benchmark) -> MemoryBar:
    machine, context = result.machine, result.parameters.get("n_ctx")
    label, memory = f"loaded, {context} tokens" if context else "loaded", result.memory
    if not _is_on_gpu(result):
        return MemoryBar(label, memory, MARGIN_BYTES, machine.ram_available_bytes, "memory that was free")
    margin = GPU_MARGIN_BYTES * len(machine.gpus)
    return MemoryBar(label, memory, margin, _free_vram_bytes(machine), "GPU memory that was free")


def _is_on_gpu(result: Benchmark) -> bool:
    return bool(result.machine.gpus) and result.uses_gpus is not False and result.parameters.get("n_gpu_layers") != 0


def _free_vram_bytes(machine: Machine) -> int:
    return sum(gpu.vram_available_bytes for gpu in machine.gpus)


def _throughput(manifest: Manifest, result: Benchmark) -> Iterator[Drawing]:
    alone = replace(result, http=None, roleplay=None)  # which may be added later
    yield Drawing(draw_throughput, {"measured": alone, "title": f"Throughput of {manifest.id.short}"})


def _latency(manifest: Manifest, results: Sequence[Benchmark]) -> Iterator[Drawing]:
    """The newest load test."""
    for result in reversed(results):
        if result.http is not None:
            title = f"Latency of {manifest.id.short} over HTTP"
            yield Drawing(draw_latency, {"test": result.http, "day": (result.measured_at or "")[:10], "title": title})
            return


def _quality(clients: Clients, manifest: Manifest) -> Iterator[Drawing]:
    """Against the reference of the snapshot's own report, or against the snapshot where others name it."""
    found = {one.id: (one, quality) for one in _variants(clients, manifest) if (quality := read_quality(clients, one))}
    own = found.get(manifest.id)
    qualities = [quality for _, quality in found.values()]
    basis = own[1] if own else next((one for one in reversed(qualities) if one.reference == str(manifest.id)), None)
    if basis is None:
        return
    variants = [
        VariantQuality(
            label=_label(one, manifest),
            size_bytes=one.size_bytes,
            kl=quality.kl_divergence.mean,
            ci95=quality.kl_divergence.ci95,
            is_subject=one.id == manifest.id,
        )
        for one, quality in found.values()
        if _compares(quality, basis)
    ]
    reference = next((one for one in clients.volume.snapshots(manifest.model) if str(one.id) == basis.reference), None)
    yield Drawing(
        draw_quality,
        {
            "variants": variants,
            "reference": _label(reference, manifest) if reference else basis.reference,
            "reference_bytes": reference.size_bytes if reference else None,
            "texts": f"{len(basis.texts)} texts of {basis.tokens:,} tokens",
            "title": f"Quality of {manifest.model}",
        },
    )


def _variants(clients: Clients, manifest: Manifest) -> list[Manifest]:
    """The snapshot, and one of each other variant of its model: the promoted one, else the newest."""
    promoted = clients.volume.promoted(manifest.model)
    chosen: dict[str, Manifest] = {}
    for one in clients.volume.snapshots(manifest.model):  # the newest last
        if one.variant not in chosen or not promoted.holds(chosen[one.variant].id):
            chosen[one.variant] = one
    return list({**chosen, manifest.variant: manifest}.values())


def _label(one: Manifest, subject: Manifest) -> str:
    return one.variant if one.revision == subject.revision else f"{one.variant}@{one.revision[:8]}"


def _compares(one: Quality, other: Quality) -> bool:
    return (one.reference, one.texts_sha256) == (other.reference, other.texts_sha256)


def _pareto(clients: Clients, manifest: Manifest, result: Benchmark | None) -> Iterator[Drawing]:
    """The variants on the machine of the snapshot's own benchmark. A catalog that cannot be read has no prices, and is
    no reason to fail after a measurement."""
    if result is None or result.kind.embeds:
        return
    try:
        cost = cost_of_model(clients, manifest.model)
    except (BadCatalog, NoSuchFile, NoPermission) as error:
        _LOG.warning("speed and quality of %s are not drawn: %s", manifest.model, error.message)
        return
    choices = [
        Choice(
            label=row.variant if row.revision == manifest.revision else f"{row.variant}@{row.revision[:8]}",
            size_bytes=row.size_bytes,
            decode_tok_per_s=row.decode_tok_per_s,
            kl=row.kl_mean,
            price_per_million=row.price_out,
            reliable=row.reliable,
            is_subject=(row.variant, row.revision) == (manifest.variant, manifest.revision),
        )
        for row in cost.rows
        if row.machine_id == result.machine.identity
    ]
    if len(choices) > 1 and cost.reference:
        reference = cost.reference.removeprefix(f"{manifest.model}:").removesuffix(f"@{manifest.revision}")
        yield Drawing(
            draw_pareto,
            {
                "choices": choices,
                "where": f"{result.machine.name}. KL divergence from {reference}.",
                "title": f"Speed and quality of {manifest.model}",
            },
        )


def _history(clients: Clients, manifest: Manifest) -> list[tuple[Manifest, Benchmark]]:
    """Every benchmark of the snapshot and of the variant's other revisions, oldest first."""
    found = [
        (one, result)
        for one in clients.volume.snapshots(manifest.model)
        if one.variant == manifest.variant
        for result in benchmark_history(clients, one)
    ]
    return sorted(found, key=lambda pair: pair[1].measured_at or "")


def _runs(manifest: Manifest, history: Sequence[tuple[Manifest, Benchmark]]) -> Iterator[Drawing]:
    """One run alone has none beside it."""
    if len(history) < 2:
        return
    several = len({one.revision for one, _ in history}) > 1
    runs = [
        PastRun(
            day=(result.measured_at or "earlier")[:10],
            group=", ".join([*([one.revision[:8]] if several else []), where(replace(result, measured_at=None))]),
            prefill_tok_per_s=next((row.prefill_tok_per_s for row in result.results if row.prefill_tok_per_s), None),
            decode_tok_per_s=next((row.decode_tok_per_s for row in result.results if row.decode_tok_per_s), None),
            first_token_s=result.time_to_first_token_s,
            reliable=result.reliable,
        )
        for one, result in history
    ]
    yield Drawing(draw_runs, {"runs": runs, "title": f"Benchmarks of {manifest.id.name}"})
