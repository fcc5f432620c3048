"""The names in images, compose, Kubernetes and systemd exist: variables, commands, paths, ports, pools and tags."""

from __future__ import annotations

import re
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import prefect.settings
import pytest
import yaml
from botocore.configprovider import BOTOCORE_DEFAUT_SESSION_VARIABLES
from botocore.credentials import EnvProvider
from prefect_redis.cleanup_queue import RedisWorkerCleanupQueueSettings
from prefect_redis.client import RedisMessagingSettings

from infra.bootstrap import POOLS
from infra.bootstrap import main as bootstrap
from paddock.settings import SETTINGS
from paddock.version import VERSION
from tests.support.deployed import (
    COMPOSE,
    IMAGES,
    INFRA,
    MANIFESTS,
    UNITS,
    VALUES,
    Variable,
    commands,
    environment,
    nodes,
    services,
    variables,
)

PADDOCKS = {name for setting in SETTINGS.values() for name in setting.names}
REDIS = {f"PREFECT_REDIS_MESSAGING_{field.upper()}" for field in RedisMessagingSettings.model_fields} | {
    f"PREFECT_REDIS_WORKER_CLEANUP_QUEUE_{field.upper()}" for field in RedisWorkerCleanupQueueSettings.model_fields
}
BOTO3 = {
    EnvProvider.ACCESS_KEY,
    EnvProvider.SECRET_KEY,
    BOTOCORE_DEFAUT_SESSION_VARIABLES["region"][1],
    "AWS_ENDPOINT_URL",
}
OTHERS = {
    "PATH": "the system",
    "XDG_CACHE_HOME": "Paddock",
    "HF_HOME": "huggingface_hub",
    "CUDA_VISIBLE_DEVICES": "CUDA",
    "NVIDIA_DRIVER_CAPABILITIES": "NVIDIA's container toolkit",
    "DO_NOT_TRACK": "Prefect",
    "PYTHONDONTWRITEBYTECODE": "Python",
    "PIP_NO_CACHE_DIR": "pip",
    "PIP_DISABLE_PIP_VERSION_CHECK": "pip",
    "POSTGRES_DB": "the image of PostgreSQL",
    "POSTGRES_USER": "the image of PostgreSQL",
    "POSTGRES_PASSWORD": "the image of PostgreSQL",
}
UNITS_OWN = {"POOL", "OPTIONS"}
FILES = [*IMAGES, COMPOSE, *VALUES, *MANIFESTS, *UNITS]


@pytest.mark.parametrize("variable", variables(), ids=lambda variable: f"{variable.file} {variable.name}")
def test_a_variable_is_read_by_something(variable: Variable) -> None:
    if variable.name in UNITS_OWN:
        unit = (INFRA / "systemd" / "paddock-worker@.service").read_text()
        assert re.search(rf"^ExecStart=.*\$\{{?{variable.name}\b", unit, re.MULTILINE)
    elif variable.name.startswith("PREFECT_") and variable.name not in REDIS:
        assert getattr(prefect.settings, variable.name).name == variable.name
    else:
        assert variable.name in PADDOCKS | REDIS | BOTO3 | OTHERS.keys()


def test_a_name_that_prefect_does_not_know_is_found() -> None:
    assert not hasattr(prefect.settings, "PREFECT_SERVER_DATABASE_PASWORD")


@pytest.mark.parametrize("file", sorted({variable.file for variable in variables()}))
def test_prefect_takes_the_values_of_a_file(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in variables():
        if variable.file == file and variable.name.startswith("PREFECT_"):
            monkeypatch.setenv(variable.name, "a:b" if re.search(r"[${%]", variable.value) else variable.value)
    prefect.settings.Settings()


@pytest.mark.parametrize("module", sorted({v.value for v in variables() if v.value.startswith("prefect_redis.")}))
def test_a_module_of_prefect_redis_has_what_prefect_loads(module: str) -> None:
    loaded = import_module(module)
    expected = {
        "messaging": "Publisher",
        "ordering": "CausalOrdering",
        "lease_storage": "ConcurrencyLeaseStorage",
        "cleanup_queue": "WorkerCleanupQueue",
    }
    assert hasattr(loaded, expected[module.rpartition(".")[2]])


def test_redis_is_used_for_everything_that_several_servers_share() -> None:
    shared = {name: v for name, v in services()["prefect-api"]["environment"].items() if "prefect_redis" in v}
    assert set(shared) == {
        "PREFECT_SERVER_EVENTS_MESSAGING_BROKER",
        "PREFECT_SERVER_EVENTS_MESSAGING_CACHE",
        "PREFECT_SERVER_EVENTS_CAUSAL_ORDERING",
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE",
        "PREFECT_SERVER_WORKER_CHANNEL_CLEANUP_QUEUE_STORAGE",
    }
    assert services()["prefect-services"]["environment"].items() <= services()["prefect-api"]["environment"].items()


# Commands


def prefects(arguments: list[str]) -> dict[str, Any]:
    """Parse a command of Prefect's with its own command line, without running it. Raises CycloptsError."""
    from prefect.cli._app import _app as application  # `prefect.cli.app` also runs what it parses

    _, bound, _ = application.parse_args(arguments, exit_on_error=False, print_error=False)
    return dict(bound.arguments)


@pytest.mark.parametrize(("file", "command"), commands(), ids=lambda value: value if isinstance(value, str) else "")
def test_a_command_is_one_that_its_program_accepts(file: str, command: list[str]) -> None:
    program, *arguments = command
    if program.rpartition("/")[2] == "prefect":
        if file.endswith(".service"):
            values = {"POOL": "paddock-io", "OPTIONS": "--limit=1"}
            arguments = [re.sub(r"\$\{?(\w+)\}?", lambda match: values[match[1]], word) for word in arguments]
        parsed = prefects(arguments)
        assert parsed.get("work_pool_name", "paddock-io") in POOLS
        assert parsed.get("worker_type", "process") == "process"
    elif program == "python" and arguments[0] == "-m":
        assert arguments == ["-m", "infra.bootstrap"]
        assert find_spec(bootstrap.__module__)
    else:
        assert program in {"python", "mini", "redis-server", "redis-cli", "pg_isready", "wget"}


def test_a_command_that_prefect_does_not_know_is_found() -> None:
    from cyclopts import CycloptsError

    for arguments in (["worker", "start", "--pol", "paddock-io"], ["server", "migrate"]):
        with pytest.raises(CycloptsError):
            prefects(arguments)


def test_each_pool_has_a_worker_in_each_deployment() -> None:
    units = {path.name[len("paddock-worker@") : -len(".service.d")] for path in (INFRA / "systemd").glob("*.d")}
    assert {f"paddock-{name}" for name in units} == set(POOLS)
    charts = [yaml.safe_load(path.read_text()).get("worker", {}) for path in VALUES]
    assert {chart["config"]["workPool"] for chart in charts if "workPool" in chart.get("config", {})} == set(POOLS)
    started = {word for _, command in commands() for word in command if word in POOLS}
    assert started == set(POOLS)


# Tags, ports, paths


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(INFRA).as_posix())
def test_an_image_of_ours_has_the_version_and_a_dockerfile(path: Any) -> None:
    text = path.read_text()
    for name, tag in re.findall(r"paddock-(\w+-worker):(\S+?)\s", text):
        assert (INFRA / "images" / f"{name}.Dockerfile").exists()
        assert tag == VERSION
    for node in nodes(yaml.safe_load(text)) if path in VALUES else ():
        assert re.fullmatch(r"paddock-(io|gpu)-worker", node.get("repository", "paddock-io-worker"))
        assert str(node.get("prefectTag", VERSION)) == VERSION


def test_a_health_check_has_a_port_of_its_own() -> None:
    drop_ins = [environment(path) for path in UNITS if path.name == "pool.conf"]
    ports = [found["PREFECT_WORKER_WEBSERVER_PORT"] for found in drop_ins]
    assert len(set(ports)) == len(POOLS)
    assert not {"4200", "8080"} & set(ports)  # Prefect's server, and a served model


def test_a_configuration_file_names_no_path_of_a_machine() -> None:
    for path in FILES:
        assert not re.search(r"/(?:home/(?!paddock\b)|root|work|Users)\b", path.read_text())
