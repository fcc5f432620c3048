"""A refresh with all measurements, by the command: another template, other tensors, a worse and a slower model.

It takes minutes, and is behind `make torture`.
"""

from __future__ import annotations

import filecmp
from pathlib import Path

import numpy as np
import pytest

from infra.local.hub import HubService
from paddock.gguf.reader import FileSource, read_header
from paddock.lifecycle.acquire.pull import pull
from paddock.lifecycle.clients import connect
from paddock.model.names import ModelName
from paddock.model.reference import Reference
from tests.support.altered_models import Q8_0_BLOCK, TEMPLATE, RealModel, misnamed, quantized, template_of
from tests.support.gguf import STRING, U32, tiny_llama
from tests.support.large_model import write_large_model
from tests.support.program import Paddock, paddock
from tests.support.refreshed import catalog_of
from tests.support.tiny_hub import use_hub

__all__ = ["paddock"]

NAME = "org/real-GGUF"
FILE = "SmolLM2-Q8_0.gguf"
MIB = 1024 * 1024


pytestmark = [pytest.mark.torture, pytest.mark.timeout(3600)]


@pytest.fixture
def catalog(hub: HubService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The catalog of an empty volume; without Prefect."""
    use_hub(monkeypatch, hub, tmp_path)
    path = tmp_path / "catalog.yaml"
    monkeypatch.setenv("PADDOCK_CATALOG", str(path))
    monkeypatch.setenv("PREFECT_API_URL", "")
    path.write_bytes(catalog_of(f"model: {NAME}"))
    return path


def test_another_template_costs_a_header_and_a_worse_model_is_held_back(
    hub: HubService, tmp_path: Path, catalog: Path, paddock: Paddock
) -> None:
    path = quantized(tmp_path, "Q8_0")
    first = hub.repository(NAME).commit({"README.md": b"# One\n", FILE: path})
    pull(connect(), Reference(ModelName.parse(NAME)))

    # Only the card.
    hub.reset_stats()
    second = hub.repository(NAME).commit({"README.md": b"# Two\n"})
    (entry,) = paddock("refresh", "--json").json["entries"]
    assert (entry["outcome"], entry["revision"], entry["bytes"]) == ("retagged", second, 0)
    assert hub.stats().bytes_sent.get(f"{NAME}/{FILE}", 0) == 0

    # Only the chat template: a comment, so that it renders the same.
    hub.reset_stats()
    model = RealModel.read(path)
    with FileSource(path) as source:
        header = read_header(source)
    other = model.with_key(TEMPLATE, STRING, "{# another one #}" + template_of(model)).write(tmp_path / "template.gguf")
    third = hub.repository(NAME).commit({FILE: other})
    refreshed = paddock("refresh", "--json").json
    (entry,) = refreshed["entries"]
    print(entry["outcome"], entry["reason"], hub.stats().bytes_sent, other.stat().st_size)
    assert (entry["action"], entry["outcome"], entry["revision"]) == ("template-only", "promoted", third)
    assert hub.stats().bytes_sent[f"{NAME}/{FILE}"] <= header.data_offset + MIB
    assert "{# another one #}" in Path(refreshed["report"]).read_text()
    stored = connect().volume.model_path(ModelName.parse(NAME)) / FILE
    assert stored.read_bytes() == other.read_bytes()

    # Q2_K in the name of Q8_0.
    hub.repository(NAME).commit({FILE: misnamed(tmp_path).write(tmp_path / "worse.gguf")})
    (entry,) = paddock("refresh", "--json").json["entries"]
    print(entry["outcome"], entry["reason"])
    assert entry["outcome"] == "held back"
    assert "kl_ratio" in entry["reason"]
    hub.reset_stats()
    (entry,) = paddock("refresh", "--json").json["entries"]
    assert (entry["outcome"], hub.stats().total_requests, hub.stats().total_bytes_sent) == ("held back", 1, 0)
    assert stored.read_bytes() == other.read_bytes()
    assert first != third


def test_two_tensors_of_a_large_model_cost_their_bytes_and_little_more(
    hub: HubService, tmp_path: Path, catalog: Path, paddock: Paddock
) -> None:
    catalog.write_bytes(catalog_of(f"model: {NAME}, context_tokens: 512"))
    before = write_large_model(tmp_path / "one.gguf")
    hub.repository(NAME).commit({FILE: before.path})
    pull(connect(), Reference(ModelName.parse(NAME)))
    changed = ("blk.3.ffn_up_exps.weight", "blk.17.ffn_down_exps.weight")
    after = write_large_model(tmp_path / "two.gguf", changed=changed)
    hub.repository(NAME).commit({FILE: after.path})
    hub.reset_stats()
    refreshed = paddock("refresh", "--json")
    (entry,) = refreshed.json["entries"]
    sent, size = hub.stats().bytes_sent[f"{NAME}/{FILE}"], after.path.stat().st_size
    least = sum(after.tensor_bytes[name] for name in changed)
    more = sent - least - after.header_bytes
    print(
        f"{size} bytes, {least} changed, header {after.header_bytes}, sent {sent}: {more} more; said {entry['bytes']}"
    )
    print(f"{entry['seconds']} s, {entry['action']}, {entry['outcome']}: {entry['reason']}")
    assert size > 10**9
    assert entry["outcome"] in {"promoted", "held back"}
    assert 0 <= more <= 4 * MIB
    (manifest,) = (one for one in connect().volume.snapshots() if one.revision == entry["revision"])
    stored = connect().volume.snapshot_path(manifest.id) / FILE
    assert filecmp.cmp(stored, after.path, shallow=False)


def test_a_slower_model_is_held_back_by_its_speed_and_costs_a_request_the_next_night(
    hub: HubService, catalog: Path, paddock: Paddock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has 96 layers more that add nothing: it answers the same. Where other processes keep the machine busy, no
    round of a comparison counts, and the speed is not decided."""
    monkeypatch.setenv("PADDOCK_BENCHMARK_BUDGET_S", "120")
    catalog.write_bytes(catalog_of(f"model: {NAME}, context_tokens: 512"))
    fast, slow = with_idle_layers(0), with_idle_layers(96)
    hub.repository(NAME).commit({FILE: fast})
    pull(connect(), Reference(ModelName.parse(NAME)))
    stored = connect().volume.model_path(ModelName.parse(NAME)) / FILE
    revision = hub.repository(NAME).commit({FILE: slow})
    (entry,) = paddock("refresh", "--json").json["entries"]
    print(entry["outcome"], entry["reason"])
    assert (entry["outcome"], entry["revision"]) == ("held back", revision)
    assert "its decode is " in entry["reason"]
    assert "kl_ratio" not in entry["reason"]
    assert stored.read_bytes() == fast
    hub.reset_stats()
    (entry,) = paddock("refresh", "--json").json["entries"]
    assert (entry["outcome"], hub.stats().total_requests, hub.stats().total_bytes_sent) == ("held back", 1, 0)
    assert stored.read_bytes() == fast


def with_idle_layers(count: int) -> bytes:
    """A Llama with two layers, and `count` more whose outputs are too small to change a sum."""
    file = tiny_llama(layers=2 + count, width=64, inner=128)
    file.set("llama.context_length", U32, 1024)
    for row in file.tensors:
        _, number, *part = (str(row.name) + "..").split(".")
        if number.isdigit() and int(number) >= 2 and part[0] in {"attn_output", "ffn_down"}:
            blocks = np.frombuffer(row.content(), Q8_0_BLOCK).copy()
            blocks["scale"] = np.float16(1e-7)
            row.data = blocks.tobytes()
    return file.to_bytes()
