"""A refresh of a real model, with all measurements: another template, and a worse model in the same name.

It takes minutes, and is behind `make torture`.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.local.hub import HubService
from paddock.gguf.reader import FileSource, read_header
from paddock.lifecycle.acquire.pull import pull
from paddock.lifecycle.clients import connect
from paddock.model.names import ModelName
from paddock.model.reference import Reference
from tests.support.altered_models import TEMPLATE, RealModel, misnamed, quantized, template_of
from tests.support.gguf import STRING
from tests.support.program import Paddock, paddock
from tests.support.refreshed import catalog_of
from tests.support.tiny_hub import use_hub

__all__ = ["paddock"]

NAME = "org/real-GGUF"
FILE = "SmolLM2-Q8_0.gguf"
MIB = 1024 * 1024


@pytest.mark.torture
@pytest.mark.timeout(3600)
def test_another_template_costs_a_header_and_a_worse_model_is_held_back(
    hub: HubService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, paddock: Paddock
) -> None:
    use_hub(monkeypatch, hub, tmp_path)
    monkeypatch.setenv("PADDOCK_CATALOG", str(tmp_path / "catalog.yaml"))
    monkeypatch.setenv("PREFECT_API_URL", "")
    (tmp_path / "catalog.yaml").write_bytes(catalog_of(f"model: {NAME}"))
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
