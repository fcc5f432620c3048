"""The figures of a dossier as Markdown: memory, benchmark, quality, gates and cost.

A figure that cannot be believed is marked where it stands.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from paddock.lifecycle.dossier.document import (
    DossierDocument,
    GateRow,
    Interval,
    MachineCost,
    SpeedSummary,
)
from paddock.lifecycle.dossier.verdicts import price_text
from paddock.measure.cost import kwh
from paddock.model.markdown import as_text, code, table
from paddock.model.units import counted, human_bytes
from paddock.planning.targets import THIS_MACHINE


def figures(document: DossierDocument) -> Iterator[str]:
    """The sections, each with its heading and its pictures."""
    yield from _memory(document)
    yield from _pictures(document, "memory")
    yield from _speed(document.speed)
    yield from _pictures(document, "throughput", "latency", "runs")
    yield from _quality(document)
    yield from _pictures(document, "quality")
    yield from _gates(document)
    yield from _costs(document)
    yield from _pictures(document, "pareto")


def shown_time(at: datetime) -> str:
    """A time in UTC, to the minute."""
    return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")


def _pictures(document: DossierDocument, *names: str) -> Iterator[str]:
    """The pictures of those names, as links to the files beside the page."""
    for picture in document.pictures:
        if picture.name in names:
            yield f"![{as_text(f'{picture.title}. {picture.alt}')}]({picture.file})"


def _memory(document: DossierDocument) -> Iterator[str]:
    memory = document.memory
    yield "## Memory"
    if memory is None:
        yield "Not known: not validated yet."
        return
    where = "" if memory.target == THIS_MACHINE else f", validated for {as_text(memory.target)}"
    whose = "as the engine reports it" if memory.source == "engine" else "computed from the header"
    yield f"With {memory.context_tokens:,} tokens of context{where}, {whose}:"
    rows = [(part.name, human_bytes(part.bytes)) for part in memory.parts]
    yield table(("part", "size"), [*rows, ("**total**", f"**{human_bytes(memory.total_bytes)}**")])
    for line in memory.given_up:
        yield f"Not as requested: {as_text(line)}."


def _speed(speed: SpeedSummary | None) -> Iterator[str]:
    yield "## Benchmark"
    if speed is None:
        yield "Not measured yet."
        return
    when = f" at {_measured(speed.measured_at)}" if speed.measured_at else ""
    yield f"Measured{when} on {as_text(speed.machine)}, with {as_text(speed.engine)}."
    if not speed.reliable:
        reasons = "; ".join(map(as_text, speed.doubts))
        yield f"**Not reliable: {reasons}.** These figures are no facts, and decide nothing:"
    rows = [tuple(map(as_text, row)) for row in speed.rows]
    yield table(("test", "median" if speed.reliable else "not reliable", "spread"), rows)


def _quality(document: DossierDocument) -> Iterator[str]:
    quality = document.quality
    yield "## Quality"
    if quality is None:
        yield "Not measured yet."
        return
    yield (
        f"Predictions of {quality.predicted_tokens:,} tokens, compared with those of {code(quality.reference)},"
        f" at {_measured(quality.measured_at)}."
    )
    yield table(
        ("figure", "value", "95 % interval"),
        [
            ("perplexity", *_estimate(quality.perplexity, 3)),
            ("perplexity of the reference", *_estimate(quality.reference_perplexity, 3)),
            ("same most likely token", *_estimate(quality.top1_agreement, 4)),
            ("KL divergence, mean", *_estimate(quality.kl_mean, 5)),
            *(
                (f"KL divergence, {name}", _figure(value, 5), "")
                for name, value in (
                    ("median", quality.kl_median),
                    ("99 %", quality.kl_p99),
                    ("99.9 %", quality.kl_p999),
                    ("maximum", quality.kl_max),
                )
            ),
        ],
    )


def _gates(document: DossierDocument) -> Iterator[str]:
    gates = document.gates
    yield "## Gates"
    if gates is None:
        yield "Not compared with another snapshot."
        return
    against = f"Compared with {code(gates.promoted)}" if gates.promoted else "Nothing was promoted to compare with"
    reference = f", both against {code(gates.reference)}" if gates.reference and gates.promoted else ""
    blocks = " What stays undecided blocks it." if gates.undecided_blocks else ""
    yield f"{against}{reference}, at {_measured(gates.measured_at)}.{blocks}"
    yield table(
        ("gate", "outcome", "this", "promoted", "why"),
        [
            (as_text(gate.name), _outcome(gate), _value(gate.candidate), _value(gate.promoted), _why(gate))
            for gate in gates.gates
        ],
    )


def _outcome(gate: GateRow) -> str:
    if gate.passed is None:
        return "? not decided"
    return "✓ passed" if gate.passed else "✗ **held back**"


def _why(gate: GateRow) -> str:
    parts = [as_text(gate.bound)]
    if gate.ratio is not None:
        interval = "" if gate.ci95 is None or None in gate.ci95 else " ({:.3f} to {:.3f})".format(*gate.ci95)
        parts.append(f"ratio {gate.ratio:.3f}{interval}")
    if gate.reason:
        parts.append(as_text(gate.reason))
    return "; ".join(parts)


def _costs(document: DossierDocument) -> Iterator[str]:
    yield "## Cost"
    if not document.costs:
        yield "Not known: its speed was not measured."
        return
    yield "Of a million tokens, on a machine that always has a request:"
    yield "\n".join(f"- {_cost(cost)}" for cost in document.costs)


def _cost(cost: MachineCost) -> str:
    source = as_text(cost.price_source)
    hour = f"{price_text(cost.price_per_hour)} an hour ({source})" if source else "no price of an hour"
    parts = [f"prompts {_price(cost, cost.price_in)}", f"answers {_price(cost, cost.price_out)}"]
    parts += [
        f"answers {_price(cost, load.price_out)} with {counted(load.concurrency, 'request')} at once"
        for load in cost.under_load
    ]
    energies = {"prompts": cost.joules_in, "answers": cost.joules_out}
    parts += [f"{kwh(used):.3g} kWh of the GPUs for {what}" for what, used in energies.items() if used is not None]
    return f"{as_text(cost.machine)}, {hour}: {', '.join(parts)}"


def _price(cost: MachineCost, price: float | None) -> str:
    if price is None:
        return "not known"
    return price_text(price) if cost.reliable else f"not reliable: {price_text(price)}"


def _estimate(interval: Interval, digits: int) -> tuple[str, str]:
    return (
        _figure(interval.value, digits),
        f"{_figure(interval.low, digits)} to {_figure(interval.high, digits)}",
    )


def _figure(value: float | None, digits: int) -> str:
    return "not a number" if value is None else f"{value:.{digits}f}"


def _value(value: object) -> str:
    """A figure of a gate."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else as_text(str(value))


def _measured(text: str) -> str:
    try:
        return shown_time(datetime.fromisoformat(text))
    except ValueError:
        return as_text(text)
