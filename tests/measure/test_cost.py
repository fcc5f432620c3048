"""The price and energy of a million tokens, from figures that can be checked by hand."""

from __future__ import annotations

import json
from math import inf, nan
from typing import Any

import pytest

from paddock.measure.benchmark_report import Benchmark
from paddock.measure.cost import JOULES_PER_KWH, LoadPrice, joules_of_million, kwh, price_of_million, token_cost
from tests.support.benchmarks import DISTURBED, GPU_HOST, a_benchmark, a_load_test


def test_an_hour_of_100_tokens_a_second_is_360_000_tokens() -> None:
    cost = token_cost(a_benchmark(decode=100, prefill=1000), 0.36)
    assert cost.price_out == pytest.approx(1.0)
    assert cost.price_in == pytest.approx(0.1)


def test_joules_a_token_are_megajoules_a_million() -> None:
    cost = token_cost(a_benchmark(joules=(0.036, 3.6), machine=GPU_HOST), None)
    assert [cost.joules_in, cost.joules_out] == pytest.approx([36_000, 3.6e6])
    assert kwh(3.6e6) == pytest.approx(1)
    assert cost.price_in is cost.price_out is None


def test_a_kilowatt_hour_is_a_kilowatt_for_an_hour() -> None:
    assert JOULES_PER_KWH == 1000 * 3600


def test_energy_that_no_driver_counted_is_none_and_not_zero() -> None:
    assert token_cost(a_benchmark(machine=GPU_HOST), 1.0).joules_out is None
    assert token_cost(a_benchmark(joules=(0.0, nan), machine=GPU_HOST), 1.0).joules_in is None


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"uses_gpus": False}, id="an engine without CUDA"),
        pytest.param({"parameters": {"n_ctx": 4096, "n_gpu_layers": 0}}, id="no layer on the GPU"),
    ],
)
def test_what_idle_gpus_used_is_not_the_energy_of_tokens(change: dict[str, Any]) -> None:
    measured = a_benchmark(joules=(1.0, 2.0), machine=GPU_HOST, **change)
    assert (token_cost(measured, 1.0).joules_in, token_cost(measured, 1.0).joules_out) == (None, None)
    assert measured.processor == "Another CPU, 32 cores"


def test_an_embedding_model_has_no_price_of_tokens_out() -> None:
    cost = token_cost(a_benchmark(decode=None, joules=(0.1, None)), 1.0)
    assert (cost.price_out, cost.joules_out) == (None, None)
    assert cost.price_in is not None


def test_the_throughput_under_load_has_a_price_of_its_own() -> None:
    measured = a_benchmark(decode=100, http=a_load_test([(1, 90.0), (8, 400.0), (16, 0.0)]))
    cost = token_cost(measured, 0.36)
    assert [(level.concurrency, level.tok_per_s) for level in cost.under_load] == [(1, 90.0), (8, 400.0)], (
        "a level without one whole answer has no figure"
    )
    assert [level.price_out for level in cost.under_load] == pytest.approx([100 / 90, 0.25])
    assert token_cost(measured, None).under_load[1] == LoadPrice(8, 400.0, None)


@pytest.mark.parametrize("on_this_machine", [False, None], ids=["elsewhere", "not known"])
def test_a_server_elsewhere_says_nothing_about_this_machine(on_this_machine: bool | None) -> None:
    http = a_load_test([(8, 400.0)], on_this_machine=on_this_machine)
    assert token_cost(a_benchmark(http=http), 1.0).under_load == ()


@pytest.mark.parametrize("figure", [None, 0.0, -1.0, nan, inf], ids=str)
def test_no_figure_is_made_of_what_is_no_speed_or_energy(figure: float | None) -> None:
    assert price_of_million(figure, 1.0) is None
    assert joules_of_million(figure) is None


def test_a_result_that_cannot_be_believed_says_so_beside_its_speeds() -> None:
    measured = a_benchmark(doubts=DISTURBED)
    assert measured.line == (
        "prefill 1000.0 tokens/s, decode 100.0 tokens/s (not reliable: other processes used 3.0 of 8 cores), on the"
        " processor: it has none"
    )
    assert measured.rows()[0] == ("not reliable", DISTURBED[0], "")
    speeds = [median for name, median, _ in measured.rows() if name.startswith(("prefill", "decode"))]
    assert speeds == ["1000.0 tokens/s (not reliable)", "100.0 tokens/s (not reliable)"]


def test_a_result_of_an_older_version_is_not_shown_as_fact_either() -> None:
    measured = a_benchmark(schema=2)
    assert "not reliable: an older version of Paddock" in measured.line
    assert measured.rows()[0][0] == "not reliable"
    assert "not reliable" not in str(a_benchmark().rows())


def test_the_pool_and_the_place_of_the_server_survive_json() -> None:
    measured = a_benchmark(pool="paddock-gpu", http=a_load_test([(1, 2.0)]))
    assert Benchmark.from_json(json.loads(json.dumps(measured.to_json()))) == measured
