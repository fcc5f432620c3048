"""A tuning is stored for a file, an engine and a machine, and applied when the model is loaded."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import pytest

from paddock.engine.oracle import MARGIN_BYTES, measure_memory
from paddock.engine.parameters import Parameters
from paddock.gguf.directory import get_gguf_file_path
from paddock.lifecycle.acquire.pull import pull
from paddock.lifecycle.clients import Clients, connect
from paddock.lifecycle.run import benchmark, tune
from paddock.measure.tuning import Tuning
from paddock.model.artifact import Manifest
from paddock.model.gpu import Gpu
from paddock.model.hardware import this_machine
from paddock.model.reference import Reference
from tests.support.tiny_hub import MODEL, copy_directory

PLAN = Parameters(n_ctx=128, n_threads=1, n_gpu_layers=0)


@pytest.fixture
def manifest(pulled: Manifest) -> Manifest:
    return pulled


@pytest.fixture(scope="module")
def tuned_home(pulled_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A volume with the model and its tuning, which takes two seconds of processor time."""
    home = tmp_path_factory.mktemp("tuned")
    copy_directory(pulled_home / "models", home)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PADDOCK_VOLUME", str(home))
        patch.setenv("PADDOCK_THREADS", "1")  # as for the tests: another number is another machine
        clients = connect()
        (manifest,) = clients.volume.snapshots(MODEL)
        tune.tune(clients, manifest, PLAN, budget_s=0)
        (used,) = clients.volume.usage.rows()
        assert (used.id, used.kind, used.usage.uses) == (manifest.id, "tune", 1)
    return home


@pytest.fixture
def stored(clients: Clients, manifest: Manifest, tuned_home: Path) -> Tuning:
    """A stored tuning of the model with changed settings."""
    copy_directory(tuned_home / ".paddock" / "tuning", clients.settings.volume / ".paddock" / "tuning")
    tuning = tune.read_tuning(clients, manifest)
    assert tuning is not None
    changed = replace(tuning, changes={"n_ubatch": 64, "flash_attn": "off"})
    (path,) = (clients.settings.volume / ".paddock" / "tuning").glob("*/*.json")
    path.write_text(json.dumps(changed.to_json()))
    return changed


def test_without_a_tuning_the_plan_is_used(clients: Clients, manifest: Manifest) -> None:
    assert tune.read_tuning(clients, manifest) is None
    assert tune.apply_tuning(clients, manifest, PLAN) == PLAN


def test_it_is_stored_under_the_digest_of_the_file(clients: Clients, manifest: Manifest, stored: Tuning) -> None:
    (path,) = (clients.settings.volume / ".paddock" / "tuning").glob("*/*.json")
    assert path.parent.name in {file.sha256 for file in manifest.files if file.path.endswith(".gguf")}
    assert {stored.engine, stored.build, stored.machine} <= set(path.stem.split("-"))


def test_the_benchmark_uses_it_and_says_so(clients: Clients, manifest: Manifest, stored: Tuning) -> None:
    assert tune.read_tuning(clients, manifest) == stored
    assert tune.apply_tuning(clients, manifest, PLAN) == replace(PLAN, n_ubatch=64, flash_attn="off")
    measured = benchmark.benchmark(clients, manifest, 128)
    assert measured.tuned is True
    assert (measured.parameters["n_ubatch"], measured.parameters["flash_attn"]) == (64, "off")
    assert benchmark.read_benchmark(clients, manifest) == measured


def test_another_machine_or_file_has_none(clients: Clients, manifest: Manifest, stored: Tuning) -> None:
    other = replace(this_machine(), gpus=(Gpu("a gpu", 2**34, 2**34),))
    assert tune.read_tuning(clients, manifest, machine=other) is None
    assert tune.read_tuning(clients, pull(clients, Reference(MODEL), quantization="Q4_K_M").manifest) is None


def test_memory_that_is_free_does_not_make_another_machine(clients: Clients) -> None:
    machine = this_machine()
    assert replace(machine, ram_available_bytes=1).identity == machine.identity
    assert replace(machine, cores=machine.cores + 1).identity != machine.identity


def test_what_a_driver_keeps_does_not_make_another_machine(clients: Clients) -> None:
    machine = replace(this_machine(), gpus=(Gpu("a gpu", 80 * 2**30 - 480 * 2**20, 2**34),))
    newer = replace(machine, gpus=(Gpu("a gpu", 80 * 2**30 - 486 * 2**20, 2**34),))
    assert newer.identity == machine.identity
    assert replace(machine, gpus=(Gpu("a gpu", 40 * 2**30, 2**34),)).identity != machine.identity


def test_a_tuning_for_which_there_is_no_memory_is_not_applied(
    clients: Clients, manifest: Manifest, stored: Tuning, caplog: pytest.LogCaptureFixture
) -> None:
    path = get_gguf_file_path(clients.volume.snapshot_path(manifest.id))
    wanted = stored.applied(PLAN)
    needed = measure_memory(path, context_tokens=128, parameters=wanted).total_bytes
    tight = replace(this_machine(), ram_available_bytes=needed + MARGIN_BYTES - 1)
    with caplog.at_level(logging.WARNING):
        assert tune.apply_tuning(clients, manifest, PLAN, machine=tight) == PLAN
    assert "takes more memory than is free" in caplog.text


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"turns": {"n_ctx": 1}}', "\x00"])
def test_a_tuning_that_cannot_be_parsed_is_ignored(
    clients: Clients, manifest: Manifest, stored: Tuning, damage: str
) -> None:
    (path,) = (clients.settings.volume / ".paddock" / "tuning").glob("*/*.json")
    path.write_text(damage)
    assert tune.apply_tuning(clients, manifest, PLAN) == PLAN


HOSTILE: dict[str, object] = {
    "a billion threads": {"n_threads": 10**9},
    "more threads than the machine has": {"n_threads": 1024, "n_threads_batch": 1024},
    "threads that are a text": {"n_threads": "8"},
    "threads that are true": {"n_threads": True},
    "no threads": {"n_threads": 0},
    "threads without an end": {"n_threads": 1e999},
    "a context of a trillion tokens": {"n_ctx": 10**12},
    "layers on a GPU": {"n_gpu_layers": 99},
    "locked memory": {"use_mlock": True},
    "micro-batches of nothing": {"n_ubatch": -1},
    "micro-batches of a gigabyte": {"n_ubatch": 2**30, "n_batch": 2**30},
    "a coarse KV cache": {"type_k": "q4_0", "type_v": "q4_0"},
    "a KV cache of no type": {"type_k": ["f16"]},
    "attention of a sort that is not": {"flash_attn": "__import__"},
    "a mapping that is a number": {"use_mmap": 1},
    "a list of knobs": ["n_threads"],
    "a text": "n_threads",
    "nothing": None,
}


@pytest.mark.parametrize("changes", HOSTILE.values(), ids=HOSTILE)
def test_a_planted_tuning_is_not_applied(clients: Clients, manifest: Manifest, stored: Tuning, changes: object) -> None:
    (path,) = (clients.settings.volume / ".paddock" / "tuning").glob("*/*.json")
    path.write_text(json.dumps({**stored.to_json(), "turns": changes}))
    assert tune.apply_tuning(clients, manifest, PLAN) == PLAN


FIELDS: dict[str, object] = {
    "the plan is no object": {"plan": 7},
    "the plan has parameters that are none": {"plan": {"n_ctx": 1, "n_threads": 1, "x": 1}},
    "the plan is out of range": {"plan": {"n_ctx": 10**12, "n_threads": 10**9}},
    "a trial is a number": {"trials": [1]},
    "the trials are a number": {"trials": 1},
    "a speed is a text": {"after": {"turns": {}, "prefill_tok_per_s": "x", "decode_tok_per_s": 1, "rounds": 1}},
    "the load has no end": {"load": 1e999},
    "the load is a list": {"load": []},
    "megabytes of text": {"machine": "x" * (5 * 2**20)},
}


@pytest.mark.parametrize("fields", FIELDS.values(), ids=FIELDS)
def test_a_tuning_that_is_none_is_not_read(
    clients: Clients, manifest: Manifest, stored: Tuning, fields: dict[str, object]
) -> None:
    (path,) = (clients.settings.volume / ".paddock" / "tuning").glob("*/*.json")
    path.write_text(json.dumps({**stored.to_json(), **fields}))
    assert tune.read_tuning(clients, manifest) is None
    assert tune.apply_tuning(clients, manifest, PLAN) == PLAN
