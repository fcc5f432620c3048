"""Tuning: which candidates run, which one wins, and what is never given up for speed."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path

import pytest

from paddock.engine.oracle import MARGIN_BYTES, measure_memory
from paddock.engine.parameters import Parameters
from paddock.errors import DoesNotFit
from paddock.measure.knobs import KNOBS
from paddock.measure.race import NOISE, Candidate, candidates_for
from paddock.measure.tuning import Tuning, tune
from paddock.model.hardware import this_machine
from tests.support.gguf import U32, tiny_llama


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama().set("llama.context_length", U32, 1024).write(tmp_path_factory.mktemp("model") / "m.gguf")


@pytest.fixture(scope="module")
def slowed(tiny: Path) -> Tuning:
    """The tuning of a plan that is slow on purpose: prompts one token at a time."""
    return tune(tiny, Parameters(n_ctx=512, n_threads=1, n_ubatch=1), budget_s=6)


def test_a_plan_that_is_slow_on_purpose_is_beaten(slowed: Tuning) -> None:
    for row in slowed.rows():
        print(*row)
    assert slowed.changes
    assert slowed.gain > 1 + NOISE
    assert slowed.after.changes == slowed.changes
    assert slowed.applied(slowed.plan) == replace(slowed.plan, **slowed.changes)


def test_the_plan_always_runs_and_every_candidate_has_a_result_or_a_reason(slowed: Tuning) -> None:
    assert slowed.trials[0].changes == {}
    assert slowed.trials[0].rounds > 0
    assert all(trial.rounds or trial.reason for trial in slowed.trials)


def test_a_tuning_survives_json_and_pickling(slowed: Tuning) -> None:
    assert Tuning.from_json(json.loads(json.dumps(slowed.to_json()))) == slowed
    assert pickle.loads(pickle.dumps(slowed)) == slowed


def test_a_document_that_changes_another_parameter_is_refused(slowed: Tuning) -> None:
    document = slowed.to_json() | {"turns": {"n_ctx": 1}}
    with pytest.raises(ValueError, match="'n_ctx', which is not a knob"):
        Tuning.from_json(document)


def test_a_parameter_that_was_set_differently_is_kept(slowed: Tuning) -> None:
    changes = {"n_ubatch": 64, "n_threads": 2}
    tuning = replace(slowed, changes=changes)
    theirs = replace(slowed.plan, n_ubatch=16, n_ctx=256)
    assert tuning.applied(theirs) == replace(theirs, n_threads=2)
    elsewhere = replace(slowed.plan, n_gpu_layers=7)
    assert tuning.applied(elsewhere) == elsewhere


def test_without_time_the_plan_is_kept(tiny: Path) -> None:
    tuning = tune(tiny, Parameters(n_ctx=256, n_threads=1), budget_s=0)
    assert tuning.changes == {}
    assert tuning.before == tuning.after
    assert tuning.after.decode_tok_per_s
    assert {trial.reason for trial in tuning.trials[1:]} == {"no time"}


def test_a_candidate_that_the_engine_refuses_is_excluded_and_the_others_run(slowed: Tuning) -> None:
    (refused,) = [
        trial for trial in slowed.trials if trial.changes.get("type_k")
    ]  # q8_0 does not divide heads of this size
    assert refused.rounds == 0
    assert refused.reason == "the engine refuses it"
    assert sum(trial.rounds > 0 for trial in slowed.trials) > 2


def test_a_model_that_does_not_fit_is_not_tuned(model: Path) -> None:
    small = replace(this_machine(), ram_available_bytes=MARGIN_BYTES + 100 * 2**20)
    with pytest.raises(DoesNotFit):
        tune(model, Parameters(n_ctx=512, n_threads=1), machine=small, budget_s=5)


def test_a_candidate_that_needs_too_much_memory_does_not_run(tiny: Path) -> None:
    plan = Parameters(n_ctx=1024, n_threads=1, n_ubatch=16)
    needed = measure_memory(tiny, context_tokens=1024, parameters=plan).total_bytes
    tight = replace(this_machine(), ram_available_bytes=needed + MARGIN_BYTES)
    tuning = tune(tiny, plan, machine=tight, budget_s=1)
    wider = [trial.reason for trial in tuning.trials if trial.changes.get("n_ubatch", 0) > 16]
    assert wider
    assert set(wider) == {"does not fit"}


@pytest.mark.parametrize("plan", ["f16", "q8_0", "q4_0", "f32"])
def test_a_cache_is_never_made_coarser_than_q8_0_nor_larger(plan: str) -> None:
    start = Parameters(n_ctx=1024, n_threads=2, type_k=plan, type_v=plan)
    changed = {candidate.changes["type_k"] for candidate in candidates(start) if "type_k" in candidate.changes}
    assert changed == (set() if plan.startswith("q") else {"q8_0"})


def candidates(plan: Parameters, *, cores: int = 4) -> list[Candidate]:
    return list(candidates_for(plan, 256, cores=cores, logical=2 * cores))


def test_every_knob_is_changed_by_a_candidate_and_nothing_else_is() -> None:
    changed = {name for candidate in candidates(Parameters(n_ctx=4096, n_threads=4)) for name in candidate.changes}
    assert changed == set(KNOBS)


def test_candidates_differ_from_each_other_and_from_the_plan() -> None:
    plan = Parameters(n_ctx=4096, n_threads=4)
    wanted = [replace(plan, **candidate.changes) for candidate in candidates(plan)]
    assert len({str(parameters.to_json()) for parameters in wanted}) == len(wanted)
    assert plan not in wanted
