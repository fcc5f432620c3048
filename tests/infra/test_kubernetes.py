"""Static checks of the Kubernetes manifests and of the values for Prefect's Helm charts. Nothing is installed."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from infra.bootstrap import POOLS
from tests.support.deployed import IMAGES, KUBERNETES, MANIFESTS, VALUES, nodes

VERSION = "1.30"
CHARTS_PROBE = "8080"  # the port that the chart `prefect-worker` asks, whatever the worker's is


def load(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((KUBERNETES / name).read_text())
    return found


def of_pool(pool: str) -> dict[str, Any]:
    """The values of a pool's worker, merged as Helm merges the two files."""
    merged = load("worker-values.yaml")
    return merge(merged, load(f"{pool.removeprefix('paddock-')}-values.yaml"))


def merge(into: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    for name, value in values.items():
        both = isinstance(value, dict) and isinstance(into.get(name), dict)
        into[name] = merge(into[name], value) if both else value
    return into


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_a_manifest_is_what_kubernetes_accepts(path: Path) -> None:
    kubernetes_validate.validate(load(path.name), VERSION, strict=True)


@pytest.mark.parametrize("name", [path.name for path in MANIFESTS])
def test_the_schema_finds_an_injected_fault(name: str) -> None:
    document = copy.deepcopy(load(name))
    document["spec"]["replica"] = 1
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(document, VERSION, strict=True)


def test_there_is_a_claim_and_workers_mount_it() -> None:
    assert load("storage.yaml")["metadata"]["name"] == "vllm-models-storage"
    worker = load("worker-values.yaml")["worker"]
    volumes = {volume["name"]: volume for volume in worker["extraVolumes"]}
    mounts = {mount["name"]: mount["mountPath"] for mount in worker["extraVolumeMounts"]}
    assert volumes["models"]["persistentVolumeClaim"]["claimName"] == "vllm-models-storage"
    assert set(volumes) == set(mounts)
    environment = {variable["name"]: variable["value"] for variable in worker["extraEnvVars"]}
    assert mounts["models"] == environment["PADDOCK_VOLUME"]
    assert Path(environment["PADDOCK_CATALOG"]).parent == Path(mounts["catalog"])


@pytest.mark.parametrize("pool", POOLS)
def test_a_pool_has_a_worker_of_its_own_name(pool: str) -> None:
    values = of_pool(pool)
    assert values["fullnameOverride"] == values["worker"]["config"]["workPool"] == pool
    assert values["worker"]["config"]["type"] == "process"
    assert f"paddock-{'io' if pool == 'paddock-io' else 'gpu'}-worker" == values["worker"]["image"]["repository"]
    assert ("nvidia.com/gpu" in values["worker"]["resources"]["limits"]) == (pool != "paddock-io")
    assert values["worker"]["config"].get("limit") == (1 if pool == "paddock-gpu" else None)


@pytest.mark.parametrize("pool", POOLS)
def test_the_charts_probe_asks_the_workers_port_and_not_a_models(pool: str) -> None:
    worker = of_pool(pool)["worker"]
    ports = [variable for variable in worker["extraEnvVars"] if variable["name"] == "PREFECT_WORKER_WEBSERVER_PORT"]
    assert [port["value"] for port in ports] == [CHARTS_PROBE]
    assert worker.get("livenessProbe", {}).get("enabled", False) == (pool != "paddock-serve")


def test_addresses_and_secrets_are_the_same_everywhere() -> None:
    worker, server, job = (load(name) for name in ("worker-values.yaml", "server-values.yaml", "bootstrap.yaml"))
    (container,) = job["spec"]["template"]["spec"]["containers"]
    environment = {variable["name"]: variable for variable in container["env"]}
    api = worker["worker"]["selfHostedServerApiConfig"]
    assert environment["PREFECT_API_URL"]["value"] == api["apiUrl"] == "http://prefect-server:4200/api"
    secrets = {
        api["basicAuth"]["existingSecret"],
        server["server"]["basicAuth"]["existingSecret"],
        server["secret"]["name"],
        environment["PREFECT_API_AUTH_STRING"]["valueFrom"]["secretKeyRef"]["name"],
    }
    assert secrets == {"paddock-prefect"}
    messaging = server["backgroundServices"]["messaging"]
    assert messaging["docket"]["url"].startswith(f"redis://{messaging['redis']['host']}:")


def test_no_file_has_a_secret() -> None:
    for path in (*VALUES, *MANIFESTS):
        for node in nodes(yaml.safe_load(path.read_text())):
            assert not {"password", "authString", "connectionString", "stringData", "data"} & set(node)


def test_programs_run_as_the_images_user_without_rights() -> None:
    (user,) = {line.split()[1] for path in IMAGES for line in path.read_text().splitlines() if line.startswith("USER ")}
    worker = load("worker-values.yaml")["worker"]
    pod = load("bootstrap.yaml")["spec"]["template"]["spec"]
    for security in (worker["podSecurityContext"], worker["containerSecurityContext"], pod["securityContext"]):
        assert str(security["runAsUser"]) == user
    server = load("server-values.yaml")
    contained = [
        worker["containerSecurityContext"],
        pod["containers"][0]["securityContext"],
        server["server"]["containerSecurityContext"],
        server["backgroundServices"]["containerSecurityContext"],
    ]
    assert [security["capabilities"] for security in contained] == [{"drop": ["ALL"]}] * 4
