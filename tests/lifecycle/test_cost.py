"""`paddock cost`: from stored benchmarks and qualities to prices, energy and the front, for people and scripts."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from paddock.lifecycle import reports
from paddock.lifecycle.clients import Clients, connect
from paddock.lifecycle.run.cost import cost_of_model
from paddock.lifecycle.run.quality import QUALITY
from paddock.lifecycle.run.stored_benchmarks import record_benchmark
from paddock.model.artifact import Manifest
from paddock.model.gpu import Gpu
from paddock.model.hardware import this_machine
from paddock.model.reference import Variant
from tests.support.benchmarks import DISTURBED, GPU_HOST, LAPTOP, a_benchmark, a_load_test, a_quality
from tests.support.program import Paddock, paddock
from tests.support.stores import MODEL, A, B, publish

__all__ = ["paddock"]

Q8, Q6, Q4, Q2 = (Variant(name) for name in ("Q8_0", "Q6_K", "Q4_K_M", "Q2_K"))
PRICES = "models:\nprices: {RTX-4090: 0.40, paddock-gpu: 2.10}\n"


@pytest.fixture
def stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Clients:
    for name in ("PADDOCK_S3_URI", "PADDOCK_PRICE_PER_HOUR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PADDOCK_VOLUME", str(tmp_path / "models"))
    monkeypatch.setenv("PADDOCK_CATALOG", str(tmp_path / "catalog.yaml"))
    (tmp_path / "catalog.yaml").write_text(PRICES)
    clients = connect()
    clients.volume.prepare()
    return clients


@pytest.fixture
def manifests(stored: Clients, tmp_path: Path) -> dict[Variant, Manifest]:
    """Four variants, of which the largest is the reference of the others' quality."""
    sizes = {Q8: 800, Q6: 600, Q4: 400, Q2: 200}
    found = {
        variant: publish(stored.volume, A, {f"{variant}.gguf": bytes(size)}, tmp_path, variant=variant)
        for variant, size in sizes.items()
    }
    for variant, kl_mean in {Q6: 0.01, Q4: 0.05, Q2: 0.9}.items():
        quality = a_quality(kl_mean, model=str(found[variant].id), reference=str(found[Q8].id))
        reports.write(stored, found[variant], QUALITY, quality.to_json())
    return found


@pytest.fixture
def measured(stored: Clients, manifests: dict[Variant, Manifest]) -> dict[Variant, Manifest]:
    """All but the smallest on the GPU; the second also on a laptop, for which no price is set."""
    speeds = {Q8: (100, 4000), Q6: (90, 4000), Q4: (200, 5000)}
    for variant, (decode, prefill) in speeds.items():
        result = a_benchmark(
            decode=decode,
            prefill=prefill,
            joules=(0.05, 3.6),
            memory_bytes=len(variant) * 2**20 if variant == Q6 else manifests[variant].size_bytes * 2**20,
            machine=GPU_HOST,
            http=a_load_test([(8, 800.0)]) if variant == Q8 else None,
        )
        record_benchmark(stored, manifests[variant], result)
    record_benchmark(stored, manifests[Q6], a_benchmark(decode=10, machine=LAPTOP, doubts=DISTURBED))
    return manifests


def test_scripts_get_each_figure_and_null_for_what_was_not_measured(
    measured: dict[Variant, Manifest], paddock: Paddock
) -> None:
    found = paddock("cost", str(MODEL), "--json").json
    assert found["model"] == str(MODEL)
    assert found["reference"] == str(measured[Q8].id)
    assert found["criteria"] == ["quality", "speed", "memory", "price"]
    assert found["not_measured"] == [measured[Q2].id.short]
    best, middle, laptop, small = found["rows"]
    assert (best["variant"], best["kl_mean"], best["on_front"]) == (Q8, 0.0, True)
    assert best["price_out"] == pytest.approx(0.40 / 3600 / 100 * 1e6)
    assert best["price_in"] == pytest.approx(0.40 / 3600 / 4000 * 1e6)
    assert (best["joules_in"], best["joules_out"]) == (pytest.approx(5e4), pytest.approx(3.6e6))
    assert (best["price_per_hour"], best["price_source"]) == (0.40, "the catalog's price of rtx-4090")
    assert best["under_load"] == [
        {"concurrency": 8, "tok_per_s": 800.0, "price_out": pytest.approx(0.40 / 3600 / 800 * 1e6)}
    ]
    assert (small["variant"], small["kl_mean"], small["reliable"]) == (Q4, 0.05, True)
    assert (middle["variant"], middle["machine"], middle["on_front"]) == (Q6, "NVIDIA GeForce RTX 4090", True)
    assert (laptop["variant"], laptop["machine"], laptop["reliable"]) == (Q6, "A CPU, 8 cores", False)
    assert (laptop["price_out"], laptop["joules_out"], laptop["on_front"]) == (None, None, None)
    assert laptop["doubts"] == list(DISTURBED)


def test_people_see_what_is_missing_and_what_is_not_reliable(
    measured: dict[Variant, Manifest], paddock: Paddock
) -> None:
    done = paddock("cost", str(MODEL))
    assert (done.status, done.stderr) == (0, "")
    lines = [line.strip() for line in done.stdout.splitlines()]
    (laptop,) = [line for line in lines if line.startswith("Q6_K") and "A CPU" in line]
    assert "10.0 (not reliable)" in laptop
    assert "no price" in laptop
    assert "not compared: not reliable" in laptop
    (best,) = [line for line in lines if line.startswith("Q8_0")]
    assert best.split()[-5:] == ["0.0278", "1.11", "0.0139", "1.00", "yes"]
    assert "the reference" in best
    assert f"{measured[Q8].id.short} on NVIDIA GeForce RTX 4090, 8 at once: 800.0 tokens/s, 0.139 for a" in done.stdout
    assert "an hour of NVIDIA GeForce RTX 4090 is taken at 0.4: the catalog's price of rtx-4090" in lines
    assert f"{measured[Q2].id.short} was not measured: `paddock bench {measured[Q2].id.short}`" in lines
    assert "no price of an hour of A CPU, 8 cores is set: give --price" in done.stdout
    assert f"`paddock bench {measured[Q6].id.short}` on that machine measures it again" in done.stdout


def test_a_variant_that_another_one_beats_names_it(stored: Clients, measured: dict[Variant, Manifest]) -> None:
    record_benchmark(stored, measured[Q2], a_benchmark(decode=150, memory_bytes=2**40, machine=GPU_HOST))
    (row,) = cost_of_model(stored, MODEL, variant=Q2).rows
    assert row.on_front is False
    assert row.dominated_by == (f"{measured[Q4].id.short} on NVIDIA GeForce RTX 4090",)


def test_a_price_of_this_machine_comes_before_the_catalog_s(
    stored: Clients, manifests: dict[Variant, Manifest], paddock: Paddock, monkeypatch: pytest.MonkeyPatch
) -> None:
    record_benchmark(stored, manifests[Q8], a_benchmark(machine=this_machine(), pool="paddock-gpu"))
    record_benchmark(stored, manifests[Q4], a_benchmark(machine=GPU_HOST, pool="paddock-gpu"))

    def prices(*options: str) -> list[tuple[float, str]]:
        rows = paddock("cost", str(MODEL), "--json", *options).json["rows"]
        return [(row["price_per_hour"], row["price_source"]) for row in rows]

    pool = (2.10, "the catalog's price of paddock-gpu")
    assert prices() == [pool, pool]
    monkeypatch.setenv("PADDOCK_PRICE_PER_HOUR", "0.05")
    assert prices() == [(0.05, "PADDOCK_PRICE_PER_HOUR"), pool]
    assert prices("--price", "7") == [(7.0, "--price")] * 2


def test_without_any_quality_or_price_the_rest_is_compared(
    stored: Clients, manifests: dict[Variant, Manifest], tmp_path: Path
) -> None:
    for manifest in manifests.values():
        stored.volume.remove_report(manifest.id, QUALITY)
    (tmp_path / "catalog.yaml").write_text("models:\n")
    record_benchmark(stored, manifests[Q8], a_benchmark(decode=100))
    record_benchmark(stored, manifests[Q4], a_benchmark(decode=200))
    found = cost_of_model(stored, MODEL)
    assert found.criteria == ("speed", "memory")
    assert [row.on_front for row in found.rows] == [False, True]
    assert any("was not measured: `paddock quality" in note for note in found.notes)
    assert any("no energy was measured" in note for note in found.notes)


def test_qualities_against_another_reference_do_not_compare(stored: Clients, measured: dict[Variant, Manifest]) -> None:
    other = a_quality(0.001, model=str(measured[Q4].id), reference=str(measured[Q6].id))
    reports.write(stored, measured[Q4], QUALITY, other.to_json())
    (row,) = cost_of_model(stored, MODEL, variant=Q4).rows
    assert (row.kl_mean, row.on_front, row.missing) == (None, None, ("quality",))
    assert any("does not compare" in note for note in cost_of_model(stored, MODEL, variant=Q4).notes)


def test_the_promoted_revision_counts_else_the_newest(
    stored: Clients, measured: dict[Variant, Manifest], tmp_path: Path
) -> None:
    newer = publish(stored.volume, B, {"new.gguf": bytes(401)}, tmp_path, variant=Q4, age_s=60)
    assert cost_of_model(stored, MODEL, variant=Q4).not_measured == (newer.id.short,)
    stored.volume.promote(measured[Q4].id, reason="a test")
    (row,) = cost_of_model(stored, MODEL, variant=Q4).rows
    assert (row.revision, row.promoted) == (A, True)
    assert cost_of_model(stored, MODEL, revision=B).not_measured == (newer.id.short,)


@pytest.mark.parametrize(
    "price", ["0", "-1", "nan", "inf", "1e-9", "0.0000001", "1e300", "99999999", "two", "$2", "", "1_0"]
)
def test_a_price_that_is_none_is_refused_in_a_sentence(paddock: Paddock, price: str) -> None:
    refused = paddock("cost", str(MODEL), "--price", price, "--json")
    assert refused.status == 3
    assert refused.json["error"] == "wrong-usage"
    assert "expected a number from 0.000001 to 10000000, such as 2.10, without a currency" in refused.json["message"]


def test_a_price_in_the_environment_that_is_none_is_refused(paddock: Paddock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PADDOCK_PRICE_PER_HOUR", "nan")
    refused = paddock("cost", str(MODEL))
    assert (refused.status, refused.stdout) == (3, "")
    assert "the setting PADDOCK_PRICE_PER_HOUR is not usable: expected a number from" in refused.stderr


def test_what_was_never_measured_is_no_cost_and_the_cure_names_the_command(
    manifests: dict[Variant, Manifest], paddock: Paddock
) -> None:
    failed = paddock("cost", f"{MODEL}:{Q4}", "--json")
    assert (failed.status, failed.json["error"]) == (1, "not-measured")
    assert failed.json["cure"] == f"measure it (`paddock bench {manifests[Q4].id.short}`)"


def test_what_is_not_on_the_volume_has_to_be_pulled(manifests: object, paddock: Paddock) -> None:
    for model in (f"{MODEL}:Q3_K_S", "org/another"):
        failed = paddock("cost", model, "--json")
        assert (failed.status, failed.json["error"]) == (1, "not-on-volume")
        assert failed.json["cure"] == f"pull it first (`paddock pull {model}`)"


def test_names_from_another_worker_cannot_control_the_terminal(
    stored: Clients, manifests: dict[Variant, Manifest], paddock: Paddock
) -> None:
    hostile = Gpu("\x1b[31m[bold]evil[/bold]\nQ8_0 free", 2**34, 0)
    machine = type(LAPTOP)("\x1b]0;x\x07", 4, 2**34, 0, gpus=(hostile,))
    record_benchmark(stored, manifests[Q8], a_benchmark(machine=machine))
    done = paddock("cost", str(MODEL), "--price", "1")
    assert done.status == 0
    assert "\\x1b[31m[bold]evil[/bold]\\nQ8_0 free" in done.stdout
    assert not set(done.stdout) & {"\x1b", "\x07"}


def test_the_cure_for_what_was_not_measured_leads_to_its_cost(
    clients: Clients, pulled: Manifest, paddock: Paddock
) -> None:
    failed = paddock("cost", pulled.repository, "--json")
    (command,) = re.findall(r"`paddock ([^`]+)`", failed.json["cure"])
    assert paddock(*command.split()).status == 0
    (row,) = paddock("cost", pulled.repository, "--price", "0.36", "--json").json["rows"]
    assert row["price_out"] == pytest.approx(100 / row["decode_tok_per_s"])
    assert (row["machine"], row["kl_mean"]) == (this_machine().name, None)
