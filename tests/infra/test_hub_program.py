"""The local Hub as a program, under load, and with the demonstration's repositories."""

import gc
import os
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from huggingface_hub import HfApi

from infra.local import demo
from infra.local.hub import HubService, LocalHub, serve_hub

ROOT = Path(__file__).parents[2]


def test_the_program_prints_its_address_and_exits_on_sigterm(tmp_path: Path) -> None:
    commit = LocalHub(tmp_path / "hub").repository("org/name").commit({"config.json": b"{}"})
    ready = tmp_path / "ready"
    command = [sys.executable, "-m", "infra.local.hub", "--root", str(tmp_path / "hub"), "--ready-file", str(ready)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        assert program.stderr is not None
        address = program.stdout.readline().strip()
        assert HfApi(endpoint=address, token=False).model_info("org/name").sha == commit
        assert ready.read_text() == f"{address}\n"
        program.send_signal(signal.SIGTERM)
        assert program.wait(60) == 0
        assert (program.stdout.read(), program.stderr.read()) == ("", "")


def test_a_port_in_use_is_reported_in_one_sentence(hub: HubService, tmp_path: Path) -> None:
    port = hub.address.rpartition(":")[2]
    command = [sys.executable, "-m", "infra.local.hub", "--root", str(tmp_path), "--port", port]
    program = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (program.returncode, program.stdout) == (1, "")
    assert program.stderr.startswith(f"the local Hub cannot serve on port {port}: ")
    assert program.stderr.count("\n") == 1


def test_four_ranges_of_a_large_file_are_served_in_parallel(hub: HubService, tmp_path: Path) -> None:
    data = os.urandom(1 << 20) * 100
    hub.repository("org/name").commit({"model.gguf": data})
    quarter = len(data) // 4
    with httpx.Client(verify=False, trust_env=False, timeout=60) as client, ThreadPoolExecutor(4) as pool:
        location = client.get(f"{hub.address}/org/name/resolve/main/model.gguf").headers["Location"]

        def fetch(part: int) -> bytes:
            byte_range = f"bytes={part * quarter}-{(part + 1) * quarter - 1}"
            return client.get(location, headers={"Range": byte_range}).content

        assert b"".join(pool.map(fetch, range(4))) == data
    assert hub.stats().bytes_sent == {"org/name/model.gguf": len(data)}


def test_a_test_can_wait_for_bytes_instead_of_sleeping(hub: HubService) -> None:
    hub.repository("org/name").commit({"model.gguf": bytes(100)})
    with pytest.raises(TimeoutError, match=r"bytes_sent=\{\}"):
        hub.wait_until(lambda stats: stats.total_bytes_sent > 0, timeout_s=0.01)
    with ThreadPoolExecutor(1) as pool, httpx.Client(verify=False, trust_env=False, follow_redirects=True) as client:
        response = pool.submit(client.get, f"{hub.address}/org/name/resolve/main/model.gguf")
        assert hub.wait_until(lambda stats: stats.total_bytes_sent == 100).total_bytes_sent == 100
        response.result()


@pytest.mark.torture
def test_the_demonstration_has_quantizations_a_gated_model_and_one_without_gguf(
    hub: HubService, demo_cache: Path
) -> None:
    commit = demo.create_demo_repositories(hub.hub, cache=demo_cache)
    assert demo.create_demo_repositories(hub.hub, cache=demo_cache) == commit
    info = HfApi(endpoint=hub.address, token=False).model_info(demo.MODEL, files_metadata=True)
    assert info.card_data is not None
    assert (info.sha, info.card_data.license) == (commit, "apache-2.0")
    sizes = {row.rfilename: row.size or 0 for row in info.siblings or []}
    named = [f"SmolLM2-135M-Instruct-{quantization}.gguf" for quantization in ("Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M")]
    assert sorted(named, key=lambda name: -sizes[name]) == named
    assert {"config.json", "tokenizer_config.json", "generation_config.json", "README.md"} | set(named) == set(sizes)
    with httpx.Client(base_url=hub.address, verify=False, trust_env=False, follow_redirects=True) as client:
        config = client.get(f"/{demo.MODEL}/resolve/main/config.json").json()
        head = client.get(f"/{demo.MODEL}/resolve/main/{named[0]}", headers={"Range": "bytes=0-3"}).content
        gated = [
            client.get(
                f"/{demo.GATED}/resolve/main/{named[3]}",
                headers={"Authorization": f"Bearer {token}"},
                follow_redirects=False,
            ).status_code
            for token in (demo.DEMO_TOKEN, demo.UNAUTHORIZED_TOKEN)
        ]
    assert (config["model_type"], config["vocab_size"], config["hidden_size"]) == ("llama", 49_152, 576)
    assert head == b"GGUF"
    assert gated == [302, 403]
    safetensors = HfApi(endpoint=hub.address, token=False).list_repo_files(demo.SAFETENSORS)
    assert sorted(safetensors) == ["config.json", "model.safetensors"]

    before = files_of(hub)
    demo.update_demo_repositories(hub.hub, cache=demo_cache)
    after = files_of(hub)
    changed = {name: {path for path, blob in before[name].items() if after[name][path] != blob} for name in before}
    assert changed == {demo.MODEL: {"README.md"}, demo.UPDATED: {"SmolLM2-135M-Instruct-Q8_0.gguf"}}


def files_of(hub: HubService) -> dict[str, dict[str, str]]:
    """The blob of each file, by the name of each model that changes."""
    api = HfApi(endpoint=hub.address, token=False)
    infos = {name: api.model_info(name, files_metadata=True) for name in (demo.MODEL, demo.UPDATED)}
    return {name: {row.rfilename: row.blob_id or "" for row in info.siblings or []} for name, info in infos.items()}


def test_a_stop_closes_the_sockets_of_clients_that_just_connected(tmp_path: Path) -> None:
    for number in range(60):
        with serve_hub(LocalHub(tmp_path)) as service:
            port = urlsplit(service.address).port
            clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(number % 6)]
        for client in clients:
            client.close()
    gc.collect()  # an unclosed socket warns when it is collected, and warnings are errors in tests
