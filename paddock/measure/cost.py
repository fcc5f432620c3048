"""Compute what a million tokens cost, in money and in energy, from a benchmark and the price of an hour.

    price of tokens in    of the time that prefill takes for a million prompt tokens, one request at a time
    price of tokens out   of the time that decode takes for a million answer tokens, one request at a time
    price under load      of a million answer tokens at the throughput of a load test, whose time includes the prompts;
                          it is known only where the server that was tested ran on the machine of the benchmark
    energy                joules of the GPUs, as their driver counts them, for a million tokens; 3.6e6 J are one kWh.
                          None where they did not compute: what idle GPUs used says nothing about tokens

    price of a million tokens = price of an hour / 3600 / tokens per second * 1e6

The hour is paid whether or not the machine is busy: these are prices of a machine that always has a request. Money has
no unit here: prices are in the currency in which the hour was given. A figure that was not measured is None, and one
that comes from a benchmark that was disturbed is marked by `doubts`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any, Final

from paddock.measure.benchmark_report import Benchmark
from paddock.measure.pareto import Criterion

MILLION: Final = 1_000_000
HOUR_S: Final = 3600.0
JOULES_PER_KWH: Final = 3.6e6


@dataclass(frozen=True, slots=True)
class LoadPrice:
    """Throughput with `concurrency` requests at once, and the price of a million answer tokens at it."""

    concurrency: int
    tok_per_s: float
    price_out: float | None


@dataclass(frozen=True, slots=True)
class TokenCost:
    """Price and energy of a million tokens. `joules_in` and `joules_out` are of the GPUs alone."""

    price_in: float | None
    price_out: float | None
    joules_in: float | None
    joules_out: float | None
    under_load: tuple[LoadPrice, ...] = ()


@dataclass(frozen=True, slots=True)
class CostRow:
    """A variant on a machine.

    `name`             `org/name:VARIANT@<8 hex>` of the snapshot
    `machine`          what computed: the GPUs, or the processor with its cores; `machine_id` is that of the machine
    `price_per_hour`   of the machine, and where it is from (`price_source`); None and "" where none is known
    `kl_mean`          mean KL divergence from `ModelCost.reference`, whose own is 0 by definition
    `doubts`           why the benchmark cannot be believed: its figures are no facts, and it is not compared
    `on_front`         None for a row that is not compared; then `missing` says which figures it lacks
    `dominated_by`     `name` and `machine` of each row of the front that dominates it
    """

    name: str
    variant: str
    revision: str
    promoted: bool
    size_bytes: int
    machine: str
    machine_id: str
    context_tokens: int
    engine: str
    measured_at: str | None
    decode_tok_per_s: float | None
    prefill_tok_per_s: float | None
    memory_bytes: int
    kl_mean: float | None
    price_per_hour: float | None
    price_source: str
    price_in: float | None
    price_out: float | None
    joules_in: float | None
    joules_out: float | None
    under_load: tuple[LoadPrice, ...]
    reliable: bool
    doubts: tuple[str, ...]
    on_front: bool | None
    dominated_by: tuple[str, ...]
    missing: tuple[Criterion, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class ModelCost:
    """The measured variants of a model on each machine.

    `reference`      the snapshot that the quality of all rows was measured against; None where it was not measured
    `criteria`       what the front was found by (`paddock.measure.pareto`)
    `not_measured`   names of the snapshots without a benchmark
    `notes`          what is missing, and how to measure or state it
    """

    model: str
    rows: tuple[CostRow, ...]
    reference: str | None
    criteria: tuple[Criterion, ...]
    not_measured: tuple[str, ...]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "rows": [row.to_json() for row in self.rows]}


def price_of_million(tok_per_s: float | None, price_per_hour: float | None) -> float | None:
    """The price of a million tokens; None where the speed or the price of an hour is not known."""
    if tok_per_s is None or price_per_hour is None or not tok_per_s > 0 or not isfinite(tok_per_s):
        return None
    return price_per_hour / HOUR_S / tok_per_s * MILLION


def joules_of_million(joules_per_token: float | None) -> float | None:
    """The energy of a million tokens in joules; None where it was not measured."""
    if joules_per_token is None or not joules_per_token > 0 or not isfinite(joules_per_token):
        return None
    return joules_per_token * MILLION


def kwh(joules: float) -> float:
    return joules / JOULES_PER_KWH


def token_cost(measured: Benchmark, price_per_hour: float | None) -> TokenCost:
    """The cost of a million tokens on the machine of a benchmark, at the price of an hour of it."""
    prefill = next((result for result in measured.results if result.prefill_tok_per_s is not None), None)
    decode = next((result for result in measured.results if result.decode_tok_per_s is not None), None)
    return TokenCost(
        price_in=price_of_million(prefill.prefill_tok_per_s, price_per_hour) if prefill else None,
        price_out=price_of_million(decode.decode_tok_per_s, price_per_hour) if decode else None,
        joules_in=joules_of_million(prefill.energy_j_per_token) if prefill and measured.on_gpu else None,
        joules_out=joules_of_million(decode.energy_j_per_token) if decode and measured.on_gpu else None,
        under_load=_under_load(measured, price_per_hour),
    )


def _under_load(measured: Benchmark, price_per_hour: float | None) -> tuple[LoadPrice, ...]:
    load_test = measured.http
    if load_test is None or not load_test.on_this_machine:
        return ()
    return tuple(
        LoadPrice(level.concurrency, level.tok_per_s, price_of_million(level.tok_per_s, price_per_hour))
        for level in load_test.levels
        if level.whole and level.tok_per_s > 0
    )
