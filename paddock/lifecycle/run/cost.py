"""Compute what the variants of a model cost on each machine that measured them, and which of them are worth it.

Everything is read from stored reports: the benchmarks of each snapshot (`stored_benchmarks`), of which the one that
stands on each machine counts, and the qualities, of which those against one reference compare. Nothing is measured.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite

from paddock.errors import NotMeasured, NotOnVolume
from paddock.lifecycle.clients import Clients
from paddock.lifecycle.locate import resolve_revision
from paddock.lifecycle.run.prices import Prices, load_prices
from paddock.lifecycle.run.quality import read_quality
from paddock.lifecycle.run.stored_benchmarks import benchmark_history, planned_context, standing
from paddock.measure.benchmark_report import Benchmark
from paddock.measure.cost import CostRow, ModelCost, token_cost
from paddock.measure.pareto import Criterion, Figures, pareto_front
from paddock.measure.quality import Quality
from paddock.model.artifact import Manifest
from paddock.model.names import ModelName, Revision
from paddock.model.reference import Reference, SnapshotId, Variant, same_variant


def cost_of_reference(clients: Clients, wanted: Reference, *, price_per_hour: float | None = None) -> ModelCost:
    """The costs of the snapshots that a reference names: those of all variants, where it names none. `price_per_hour`
    replaces every price that is set.

    Raises NotOnVolume, NotMeasured where none of them was measured, the Hub's errors for a branch or tag, and as
    `load_catalog`.
    """
    model = clients.volume.spelled(wanted.model)
    known = [id.revision for id in clients.volume.ids(model)]
    revision = resolve_revision(clients, model, wanted.ref, known=known) if wanted.ref else None
    found = cost_of_model(clients, model, variant=wanted.variant, revision=revision, price_per_hour=price_per_hour)
    if not found.rows and not found.not_measured:
        raise NotOnVolume(f"{wanted} is not on {clients.volume.label}", cure=f"pull it first (`paddock pull {wanted}`)")
    if not found.rows:
        raise NotMeasured(
            f"no benchmark of {wanted} is stored, so that its speed is not known",
            cure=f"measure it (`paddock bench {found.not_measured[0]}`)",
        )
    return found


def cost_of_model(
    clients: Clients,
    model: ModelName,
    *,
    variant: Variant | None = None,
    revision: Revision | None = None,
    price_per_hour: float | None = None,
) -> ModelCost:
    """What the variants of a model on the volume cost: each at `revision`, by default at its promoted revision, else at
    its newest one. With `variant`, only its rows; it is compared with the others all the same.

    A snapshot that was not measured has no row, and there may be no row at all. Raises as `load_catalog`.
    """
    prices = load_prices(clients, given=price_per_hour)
    manifests = _snapshots(clients, model, revision)
    promoted = clients.volume.promoted(model)
    qualities = _Qualities.of({manifest.id: read_quality(clients, manifest) for manifest in manifests})
    rows: list[CostRow] = []
    not_measured: list[str] = []
    for manifest in manifests:
        measured = list(_by_machine(clients, manifest))
        if not measured and (variant is None or same_variant(variant, manifest.variant)):
            not_measured.append(manifest.id.short)
        kl_mean, is_promoted = qualities.of_snapshot.get(manifest.id), promoted.holds(manifest.id)
        rows += [_row(manifest, one, prices, kl_mean=kl_mean, promoted=is_promoted) for one in measured]
    rows, criteria = _compare(rows)
    rows = [row for row in rows if variant is None or same_variant(variant, row.variant)]
    return ModelCost(
        model=str(model),
        rows=tuple(rows),
        reference=qualities.reference,
        criteria=criteria,
        not_measured=tuple(not_measured),
        notes=(*_notes(rows, not_measured), *qualities.notes(rows)),
    )


def _snapshots(clients: Clients, model: ModelName, revision: Revision | None) -> list[Manifest]:
    """One snapshot of each variant, the largest first."""
    promoted = clients.volume.promoted(model)
    chosen: dict[str, Manifest] = {}
    for manifest in clients.volume.snapshots(model):  # the newest last
        if revision in {None, manifest.revision} and (
            manifest.variant not in chosen or not promoted.holds(chosen[manifest.variant].id)
        ):
            chosen[manifest.variant] = manifest
    return sorted(chosen.values(), key=lambda manifest: (-manifest.size_bytes, manifest.variant))


def cost_of_snapshot(
    clients: Clients, manifest: Manifest, history: Sequence[Benchmark], context_tokens: int
) -> tuple[CostRow, ...]:
    """What a snapshot costs on each machine that measured it, by its results; it is compared with nothing. Raises as
    `load_catalog`."""
    prices = load_prices(clients)
    promoted = clients.volume.promoted(manifest.model).holds(manifest.id)
    standing_results = _standing_by_machine(history, context_tokens)
    return tuple(_row(manifest, one, prices, kl_mean=None, promoted=promoted) for one in standing_results)


def _by_machine(clients: Clients, manifest: Manifest) -> Iterator[Benchmark]:
    """The result that stands on each machine."""
    history = benchmark_history(clients, manifest)
    return _standing_by_machine(history, planned_context(clients, manifest) if history else 0)


def _standing_by_machine(history: Sequence[Benchmark], context_tokens: int) -> Iterator[Benchmark]:
    of_machine: dict[str, list[Benchmark]] = {}
    for result in history:
        of_machine.setdefault(result.machine.identity, []).append(result)
    for results in of_machine.values():
        found = standing(results, context_tokens)
        if found is not None:
            yield found


def _row(manifest: Manifest, measured: Benchmark, prices: Prices, *, kl_mean: float | None, promoted: bool) -> CostRow:
    price, source = prices.of(measured)
    cost = token_cost(measured, price)
    return CostRow(
        name=manifest.id.short,
        variant=manifest.variant,
        revision=manifest.revision,
        promoted=promoted,
        size_bytes=manifest.size_bytes,
        machine=measured.processor,
        machine_id=measured.machine.identity,
        context_tokens=int(measured.parameters.get("n_ctx") or 0),
        engine=measured.engine,
        measured_at=measured.measured_at,
        decode_tok_per_s=next((one.decode_tok_per_s for one in measured.results if one.decode_tok_per_s), None),
        prefill_tok_per_s=next((one.prefill_tok_per_s for one in measured.results if one.prefill_tok_per_s), None),
        memory_bytes=measured.memory.total_bytes,
        kl_mean=kl_mean,
        price_per_hour=price,
        price_source=source,
        price_in=cost.price_in,
        price_out=cost.price_out,
        joules_in=cost.joules_in,
        joules_out=cost.joules_out,
        under_load=cost.under_load,
        reliable=measured.reliable,
        doubts=measured.stated_doubts,
        on_front=None,
        dominated_by=(),
        missing=(),
    )


def _compare(rows: Sequence[CostRow]) -> tuple[list[CostRow], tuple[Criterion, ...]]:
    """The rows with their places on the front of those that are reliable, and the criteria that count."""
    reliable = [row for row in rows if row.reliable]
    front = pareto_front([_figures(row) for row in reliable])
    placed = {
        id(row): replace(
            row,
            on_front=place.on_front,
            dominated_by=tuple(f"{reliable[one].name} on {reliable[one].machine}" for one in place.dominated_by),
            missing=place.missing,
        )
        for row, place in zip(reliable, front.places, strict=True)
    }
    return [placed.get(id(row), row) for row in rows], front.criteria


def _figures(row: CostRow) -> Figures:
    """What the rows are compared by. A model that embeds has no decode: its speed and price are those of prefill."""
    decodes = row.decode_tok_per_s is not None
    return Figures(
        kl_mean=row.kl_mean,
        tok_per_s=row.decode_tok_per_s if decodes else row.prefill_tok_per_s,
        memory_bytes=row.memory_bytes,
        price=row.price_out if decodes else row.price_in,
    )


@dataclass(frozen=True, slots=True)
class _Qualities:
    """The qualities that compare: those against the reference, and with the texts, of most snapshots."""

    reference: str | None
    of_snapshot: Mapping[SnapshotId, float]
    against_others: Mapping[SnapshotId, str]

    @classmethod
    def of(cls, found: Mapping[SnapshotId, Quality | None]) -> _Qualities:
        measured = {id: quality for id, quality in found.items() if quality and isfinite(quality.kl_divergence.mean)}
        counts = Counter(map(_basis, measured.values()))
        if not counts:
            return cls(None, {}, {})
        newest = {_basis(quality): quality.measured_at for quality in sorted(measured.values(), key=_measured_at)}
        basis = max(counts, key=lambda one: (counts[one], newest[one]))
        same = {id: quality.kl_divergence.mean for id, quality in measured.items() if _basis(quality) == basis}
        own = {id: 0.0 for id in found if str(id) == basis[0]}
        others = {id: quality.reference for id, quality in measured.items() if id not in same and id not in own}
        return cls(basis[0], same | own, others)

    def notes(self, rows: Sequence[CostRow]) -> Iterator[str]:
        names = {row.name for row in rows}
        for name, reference in sorted((id.short, reference) for id, reference in self.against_others.items()):
            if name in names:
                yield f"the quality of {name} was measured against {reference} or on other texts: it does not compare"
        without = sorted({row.name for row in rows if row.kl_mean is None} - {id.short for id in self.against_others})
        against = f" --against {self.reference}" if self.reference else ""
        if without:
            yield f"the quality of {', '.join(without)} was not measured: `paddock quality {without[0]}{against}`"


def _basis(quality: Quality) -> tuple[str, str]:
    return quality.reference, quality.texts_sha256


def _measured_at(quality: Quality) -> str:
    return quality.measured_at


def _notes(rows: Sequence[CostRow], not_measured: Sequence[str]) -> Iterator[str]:
    for row in rows:
        if not row.reliable:
            yield (
                f"{row.name} on {row.machine} is not reliable: {'; '.join(row.doubts)}. `paddock bench {row.name}`"
                " on that machine measures it again"
            )
    for machine in sorted({row.machine for row in rows if row.price_per_hour is None}):
        yield (
            f"no price of an hour of {machine} is set: give --price, PADDOCK_PRICE_PER_HOUR on that machine, or a price"
            " in the catalog"
        )
    if rows and not any(row.joules_out or row.joules_in for row in rows):
        yield "no energy was measured: only the drivers of NVIDIA's GPUs report it"
    if rows and not any(row.under_load for row in rows):
        yield f"no throughput under load was measured: serve {rows[0].name}, and run `paddock bench` with --server"
    for name in not_measured:
        yield f"{name} was not measured: `paddock bench {name}`"
