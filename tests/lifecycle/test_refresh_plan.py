"""The plan of a refresh, with a Hub and a volume: what each change of a repository costs, and what is said about it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from infra.local.hub import HubService, LocalHub, serve_hub
from paddock.engine.facts import engine_version
from paddock.lifecycle.catalog import parse_catalog
from paddock.lifecycle.clients import Clients, connect
from paddock.lifecycle.upkeep.refresh.facts import plan_refresh
from paddock.lifecycle.upkeep.refresh.plan import PlannedEntry, RefreshPlan
from paddock.lifecycle.upkeep.refresh.record import read_records, record_of, store_record
from paddock.model.reference import Variant
from tests.support.gguf import CHATML, F32, STRING, Gguf, TensorRow, tiny_llama, tiny_shards
from tests.support.memory_directory import memory_directory
from tests.support.program import Paddock, paddock
from tests.support.refreshed import catalog_of, promoted_model
from tests.support.tiny_hub import projector, use_hub

__all__ = ["paddock"]

FILE = "m-Q8_0.gguf"
NAMED = "model: org/a, variant: Q8_0"
CONFIG = b'{"model_type": "llama"}'
Change = Callable[[Gguf], object]


def model(change: Change | None = None) -> bytes:
    file = tiny_llama()
    if change is not None:
        change(file)
    return file.to_bytes()


def other_data() -> bytes:
    content = bytearray(model())
    content[-40:] = b"\1" * 40
    return bytes(content)


CHANGES: dict[str, tuple[dict[str, bytes | None], str, str]] = {
    "nothing": ({}, "keep", "which is promoted"),
    "the-card": ({"README.md": b"# Better\n"}, "retag", "no file of it changed"),
    "the-path": ({FILE: None, "new/m-Q8_0.gguf": model()}, "retag", "no file of it changed"),
    "another-quantization": ({"m-Q4_K_M.gguf": b"GGUF"}, "retag", "no file of it changed"),
    "a-small-file": ({"config.json": b'{"model_type": "qwen"}'}, "metadata-only", ": config.json changed"),
    "no-small-file": ({"config.json": None}, "metadata-only", ": config.json changed"),
    "the-template": (
        {FILE: model(lambda file: file.set("tokenizer.chat_template", STRING, CHATML + "\n{# fixed #}"))},
        "template-only",
        "the chat template changed",
    ),
    "metadata": (
        {FILE: model(lambda file: file.set("llama.rope.freq_base", F32, 1e6))},
        "metadata-only",
        ": metadata changed",
    ),
    "a-tensor": (
        {FILE: model(lambda file: file.tensors.append(TensorRow("rope_freqs.weight", (8,))))},
        "fetch",
        "1 tensor of the table changed",
    ),
    "the-data": ({FILE: other_data()}, "fetch", "the data of its tensors changed"),
    "no-header": ({FILE: b"GGUF" + bytes(100)}, "fetch", "its header is refused"),
    "no-variant": ({FILE: None, "m-Q4_K_M.gguf": model()}, "withdrawn", "has no Q8_0; Q8_0@"),
    "no-model": ({FILE: None}, "withdrawn", "no GGUF in"),
}


@pytest.fixture(scope="module")
def planned() -> Iterator[tuple[RefreshPlan, dict[str, int], int]]:
    """The plan for a model of each change, what of the repositories was requested, and the bytes that were sent."""
    with (
        memory_directory() as home,
        pytest.MonkeyPatch.context() as patch,
        serve_hub(LocalHub(home / "hub")) as hub,
    ):
        use_hub(patch, hub, home)
        clients = connect()
        clients.volume.prepare()
        for name, (change, _, _) in CHANGES.items():
            promoted_model(hub.hub, clients.volume, f"org/{name}", {FILE: model(), "config.json": CONFIG})
            hub.repository(f"org/{name}").commit(change)
        entries = [f"model: org/{name}, variant: q8_0" for name in CHANGES]
        hub.reset_stats()
        plan = plan_refresh(clients, parse_catalog(catalog_of(*entries), "catalog.yaml"))
        stats = hub.stats()
        yield plan, stats.requests, stats.total_bytes_sent


@pytest.mark.parametrize("name", CHANGES)
def test_each_change_of_a_repository_is_told_from_the_others(
    planned: tuple[RefreshPlan, dict[str, int], int], name: str
) -> None:
    _, action, reason = CHANGES[name]
    one = next(one for one in planned[0].entries if one.model.name == name)
    assert (one.action, one.variant) == (action, "Q8_0")
    assert reason in one.reason
    assert one.moves_default
    assert one.changes == (action in {"retag", "template-only", "metadata-only", "fetch"})


def test_a_plan_costs_a_request_for_what_did_not_move_and_headers_of_what_differs(
    planned: tuple[RefreshPlan, dict[str, int], int],
) -> None:
    plan, requests, sent = planned
    of = {name: sum(n for path, n in requests.items() if f"/org/{name}/" in path) for name in CHANGES}
    assert of["nothing"] == 1
    assert {name: of[name] for name in CHANGES if CHANGES[name][1] == "retag"} == {
        "the-card": 2,
        "the-path": 2,
        "another-quantization": 2,
    }
    estimates = {one.model.name: one.bytes for one in plan.entries}
    assert estimates["the-card"] == estimates["the-path"] == 0
    assert estimates["a-small-file"] == len(b'{"model_type": "qwen"}')
    assert 0 < (estimates["the-template"] or 0) < len(model())
    assert estimates["the-data"] == len(other_data())
    assert sent < 8 * len(model())
    assert plan.requests == 2 * len(CHANGES) - 1


def test_the_difference_of_the_headers_can_be_read(planned: tuple[RefreshPlan, dict[str, int], int]) -> None:
    by_name = {one.model.name: one for one in planned[0].entries}
    assert "+{# fixed #}" in (by_name["the-template"].to_json()["difference"])
    assert by_name["metadata"].to_json()["difference"] == ["llama.rope.freq_base: 10000.0 -> 1000000.0"]
    assert planned[0].line == (
        f"{len(CHANGES)} entries of catalog.yaml: 1 keep, 3 retag, 1 template-only, 3 metadata-only, 3 fetch, "
        f"2 withdrawn; some {planned[0].line.rpartition('some ')[2]}"
    )


# One model


@pytest.fixture
def clients(monkeypatch: pytest.MonkeyPatch, hub: HubService, memory: Path) -> Clients:
    use_hub(monkeypatch, hub, memory)
    made = connect()
    made.volume.prepare()
    return made


def plan_of(clients: Clients, *entries: str) -> list[PlannedEntry]:
    return list(plan_refresh(clients, parse_catalog(catalog_of(*entries), "catalog.yaml")).entries)


def test_what_the_hub_does_not_give_any_more_is_withdrawn_and_stays_promoted(clients: Clients, hub: HubService) -> None:
    for name in ("gone", "old", "gated", "branch"):
        promoted_model(hub.hub, clients.volume, f"org/{name}", {FILE: model()})
    hub.repository("org/new").commit({FILE: model()})
    hub.repository("org/gated", gated=True)
    (hub.hub.root / "repositories/org/gone/state.json").unlink()
    (hub.hub.root / "repositories/org/old/state.json").unlink()
    hub.rename("org/old", "org/new")
    gone, old, branch = plan_of(
        clients, "model: org/gone", "model: org/old", "model: org/branch, channel: v2, variant: Q8_0"
    )
    assert {one.action for one in (gone, old, branch)} == {"withdrawn"}
    assert "org/gone is not on" in gone.reason
    assert "it is org/new on the Hub now: write `model: org/new` in the catalog" in old.reason
    assert "org/branch@v2 is not on" in branch.reason
    assert all(one.reason.endswith("stays promoted") for one in (gone, old, branch))


def test_a_gated_repository_is_withdrawn_once_bytes_of_it_are_needed(clients: Clients, hub: HubService) -> None:
    promoted_model(hub.hub, clients.volume, "org/gated", {FILE: model()})
    hub.repository("org/gated", gated=True)
    assert [one.action for one in plan_of(clients, "model: org/gated")] == ["keep"]
    hub.repository("org/gated").commit({FILE: other_data()})
    (one,) = plan_of(clients, "model: org/gated, variant: Q8_0")
    assert one.action == "withdrawn"
    assert "gated" in one.reason


def test_a_hub_that_does_not_answer_blocks_what_it_was_not_asked(
    clients: Clients, hub: HubService, monkeypatch: pytest.MonkeyPatch
) -> None:
    promoted_model(hub.hub, clients.volume, "org/a", {FILE: model()})
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (one,) = plan_of(connect(), "model: org/a")
    assert (one.action, one.revision, one.changes) == ("blocked", None, False)
    assert "HF_HUB_OFFLINE is set; Q8_0@" in one.reason


def test_a_model_whose_history_cannot_be_read_is_blocked_alone(clients: Clients, hub: HubService) -> None:
    for name in ("damaged", "sound"):
        promoted_model(hub.hub, clients.volume, f"org/{name}", {FILE: model()})
    (history,) = clients.volume.root.glob(".paddock/history/org--damaged.jsonl")
    history.unlink()
    history.mkdir()
    damaged, sound = plan_of(clients, "model: org/damaged", "model: org/sound")
    assert (damaged.action, sound.action) == ("blocked", "keep")
    assert "org--damaged.jsonl" in damaged.reason


def test_what_was_rolled_back_is_not_promoted_again_until_the_commit_moves(clients: Clients, hub: HubService) -> None:
    first = promoted_model(hub.hub, clients.volume, "org/a", {FILE: model()})
    bad = promoted_model(hub.hub, clients.volume, "org/a", {FILE: other_data()})
    clients.volume.rollback(first.model, reason="it answers with errors")
    (one,) = plan_of(clients, NAMED)
    assert (one.action, one.revision) == ("keep", bad.revision)
    assert f"{bad.revision[:8]} was rolled back on " in one.reason
    assert one.reason.endswith(": it answers with errors")
    hub.repository("org/a").commit({"README.md": b"another"})
    assert plan_of(clients, NAMED)[0].action == "fetch"


def test_what_was_held_back_costs_one_request_until_the_gates_change(clients: Clients, hub: HubService) -> None:
    promoted_model(hub.hub, clients.volume, "org/a", {FILE: model()})
    hub.repository("org/a").commit({FILE: other_data()})
    (fetch,) = plan_of(clients, NAMED)
    assert fetch.action == "fetch"
    store_record(clients, fetch.entry, record_of(fetch, "held back", "kl_ratio is 3, above 1.5"))
    catalog = parse_catalog(catalog_of(NAMED), "catalog.yaml")
    assert read_records(clients, catalog)[fetch.entry.key].to_json()["outcome"] == "held back"
    hub.reset_stats()
    (kept,) = plan_of(clients, NAMED)
    assert hub.stats().total_requests == 1
    assert kept.action == "keep"
    assert "was held back on " in kept.reason
    assert kept.reason.endswith(": kl_ratio is 3, above 1.5")
    (again,) = plan_of(clients, f"{NAMED}, gates: {{kl_ratio: 5}}")
    assert again.action == "fetch"
    assert again.reason.startswith("the gates changed since it was held back on ")


def test_a_model_that_waits_for_approval_is_blocked_until_it_is_promoted(clients: Clients, hub: HubService) -> None:
    promoted_model(hub.hub, clients.volume, "org/a", {FILE: model()})
    hub.repository("org/a").commit({FILE: other_data()})
    (fetch,) = plan_of(clients, f"{NAMED}, approval: true")
    store_record(clients, fetch.entry, record_of(fetch, "waiting for approval"))
    (waits,) = plan_of(clients, f"{NAMED}, approval: true")
    assert waits.action == "blocked"
    assert "waits for approval since" in waits.reason
    promoted_model(hub.hub, clients.volume, "org/a", {FILE: other_data()})
    assert plan_of(clients, f"{NAMED}, approval: true")[0].action == "keep"


def test_a_damaged_record_is_ignored(clients: Clients, hub: HubService, caplog: pytest.LogCaptureFixture) -> None:
    promoted_model(hub.hub, clients.volume, "org/a", {FILE: model()})
    (one,) = plan_of(clients, "model: org/a")
    store_record(clients, one.entry, record_of(one, "held back"))
    (path,) = (clients.volume.root / ".paddock/reports/refresh").iterdir()
    path.write_text('{"revision": 1}')
    assert plan_of(clients, "model: org/a")[0].action == "keep"
    assert "the record of the last refresh of org/a@main is damaged, and ignored" in caplog.text


def test_another_engine_asks_for_a_measurement_of_what_is_promoted(clients: Clients, hub: HubService) -> None:
    promoted_model(hub.hub, clients.volume, "org/old", {FILE: model()}, engine="0.3.1")
    promoted_model(hub.hub, clients.volume, "org/new", {FILE: model()}, engine=engine_version())
    old, new = plan_of(clients, "model: org/old", "model: org/new")
    assert [(one.action, one.measure) for one in (old, new)] == [("keep", True), ("keep", False)]
    store_record(clients, old.entry, record_of(old, "measured"))
    assert not plan_of(clients, "model: org/old")[0].measure


def test_two_entries_of_a_model_move_a_variant_each_and_the_default_by_one_alone(
    clients: Clients, hub: HubService
) -> None:
    for variant in ("Q8_0", "Q4_K_M"):
        files = {f"m-{variant}.gguf": model()}
        promoted_model(hub.hub, clients.volume, "org/a", files, variant=Variant(variant), default=variant == "Q8_0")
    named = plan_of(clients, "model: org/a, variant: Q8_0, default: true", "model: ORG/a, variant: Q4_K_M")
    assert [(one.variant, one.moves_default) for one in named] == [("Q8_0", True), ("Q4_K_M", False)]
    wants, other, follows = plan_of(
        clients,
        "model: org/a, variant: Q4_K_M, default: true",
        "model: org/a, variant: Q4_K_M, channel: dev, target: any",
        "model: org/a, variant: q4_k_m, target: 64GiB",
    )
    assert wants.action == "retag"
    assert "becomes the default in place of Q8_0" in wants.reason
    assert other.action == "withdrawn"
    assert follows.reason == f"main is at {str(follows.revision)[:8]}, which is promoted"
    hub.repository("org/a").commit({"README.md": b"another"})
    moves, follows = plan_of(clients, "model: org/a, variant: Q4_K_M", "model: org/a, variant: q4_k_m, target: 64GiB")
    assert (moves.action, follows.action) == ("retag", "keep")
    assert follows.reason == "Q4_K_M is moved by the entry for this-machine too"
    hub.repository("org/a").branch("dev")
    assert (
        "a variant follows one channel"
        in plan_of(
            clients,
            "model: org/a, variant: Q4_K_M",
            "model: org/a, variant: Q4_K_M, channel: dev, target: any",
        )[1].reason
    )


def test_auto_chooses_a_variant_that_fits_and_keeps_it(clients: Clients, hub: HubService) -> None:
    hub.repository("org/a").commit({FILE: model(), "m-Q4_K_M.gguf": model(lambda file: file.set("general.x", F32, 1))})
    (new,) = plan_of(clients, "model: org/a, target: 64GiB")
    assert (new.action, new.variant, new.bytes, new.remember) == ("fetch", "Q8_0", len(model()), True)
    kept = record_of(new, "promoted", variant=Variant("Q4_K_M"))
    store_record(clients, new.entry, kept)
    (one,) = plan_of(clients, "model: org/a, target: 64GiB")
    assert (one.action, one.variant, one.remember) == ("fetch", "Q4_K_M", False)
    hub.repository("org/a").commit({"m-Q4_K_M.gguf": None})
    (other,) = plan_of(clients, "model: org/a, target: 64GiB")
    assert (other.variant, other.remember) == ("Q8_0", True)
    assert other.reason.startswith("the revision has no Q4_K_M any more; ")
    (large,) = plan_of(clients, "model: org/a, target: 4KiB")
    assert large.action == "blocked"
    assert "does not fit" in large.reason


def test_shards_and_a_projector_are_compared_as_one_model(clients: Clients, hub: HubService) -> None:
    names = [f"big/m-Q6_K-{number}-of-00002.gguf" for number in ("00001", "00002")]
    first, second = tiny_shards(2)
    files = {**dict(zip(names, [first.to_bytes(), second.to_bytes()], strict=True)), "mmproj-F16.gguf": projector()}
    variant = Variant("Q6_K-mmproj")
    promoted_model(hub.hub, clients.volume, "org/a", files, variant=variant)
    hub.repository("org/a").commit({"README.md": b"another"})
    (one,) = plan_of(clients, "model: org/a, variant: Q6_K-mmproj")
    assert (one.action, one.variant) == ("retag", variant)
    first.set("tokenizer.chat_template", STRING, CHATML + "\n{# fixed #}")
    hub.repository("org/a").commit({names[0]: first.to_bytes()})
    (one,) = plan_of(clients, "model: org/a, variant: Q6_K-mmproj")
    assert (one.action, one.reason.rpartition(": ")[2]) == ("template-only", "the chat template changed")
    hub.repository("org/a").commit({names[1]: None})
    (one,) = plan_of(clients, "model: org/a, variant: Q6_K-mmproj")
    assert one.action == "blocked"
    assert "lacks big/m-Q6_K-00002-of-00002.gguf" in one.reason


def test_the_command_prints_the_plan_and_does_nothing(
    clients: Clients, hub: HubService, paddock: Paddock, tmp_path: Path
) -> None:
    promoted_model(hub.hub, clients.volume, "org/a", {FILE: model()})
    hub.repository("org/a").commit({FILE: model(lambda file: file.set("llama.rope.freq_base", F32, 1e6))})
    catalog = tmp_path / "wanted.yaml"
    catalog.write_bytes(catalog_of(NAMED))
    before = sorted(clients.volume.root.rglob("*"))
    done = paddock("refresh", "--dry-run", "--catalog", str(catalog), "--json")
    assert done.status == 0
    (entry,) = done.json["entries"]
    assert {"model", "variant", "action", "reason", "bytes", "seconds", "outcome"} <= set(entry)
    assert (entry["model"], entry["variant"], entry["action"]) == ("org/a", "Q8_0", "metadata-only")
    assert entry["outcome"] is entry["seconds"] is None
    printed = paddock("refresh", "--dry-run", "--catalog", str(catalog)).stdout
    assert "metadata-only" in printed
    assert "llama.rope.freq_base: 10000.0 -> 1000000.0" in printed
    assert sorted(clients.volume.root.rglob("*")) == before
    none = paddock("refresh", "--dry-run", "--catalog", str(tmp_path / "none.yaml"), "--json")
    assert (none.status, none.json["error"]) == (3, "no-such-file")


def test_without_a_volume_everything_is_to_be_fetched(clients: Clients, hub: HubService) -> None:
    hub.repository("org/a").commit({FILE: model(), "config.json": CONFIG})
    clients.volume.root.rename(clients.volume.root.with_name("away"))
    (one,) = plan_of(clients, NAMED)
    assert (one.action, one.bytes, one.reason) == (
        "fetch",
        len(model()) + len(CONFIG),
        "nothing of it is promoted yet",
    )
    assert not clients.volume.root.exists()
