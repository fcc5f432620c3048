"""What `from paddock import …` gives, and what importing it costs."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import paddock
from infra.local.hub import HubService
from paddock.store.volume import Volume
from paddock.version import VERSION
from tests.support.stores import A, publish
from tests.support.tiny_hub import NAME, fill_repository, tiny_model

SIGNATURES = """
get_model_path_from_name(model_name: str) -> Path
download_model_to_path(model_name: str, model_path: Path) -> Path
get_gguf_file_path(model_path: Path) -> Path
get_model_config(model_path: Path) -> dict
check_model_sharding(model_path: Path) -> tuple[bool, int, list]
setup_chat_template(model_path: Path, model_name: str) -> str
is_model_supported(model_config: dict, model_name: str) -> bool
list_model_files(model_name: str | None = None) -> list[dict]
delete_model_from_volume(model_name: str, revision: str | None = None) -> int
"""
FIXED = {line.partition("(")[0]: line for line in SIGNATURES.split("\n") if line}
HEAVY = {
    "prefect",
    "huggingface_hub",
    "boto3",
    "llama_cpp",
    "numpy",
    "great_expectations",
    "pydantic",
    "jinja2",
    "matplotlib",
}
CLIENTS = {"ssl", "urllib3", "httpx", "httpx2", "h11", "asyncio"}
LIMIT_S = 0.2


def written(function: Callable[..., Any]) -> str:
    """A signature as its author wrote it: the annotations are text, which `inspect` puts into quotation marks."""
    return f"{function.__name__}{inspect.signature(function)}".replace("'", "")


@pytest.mark.parametrize(("name", "signature"), FIXED.items(), ids=FIXED)
def test_a_public_function_has_its_fixed_signature(name: str, signature: str) -> None:
    assert written(getattr(paddock, name)) == signature


@pytest.mark.parametrize("name", FIXED)
def test_a_public_function_says_what_it_does(name: str) -> None:
    assert inspect.getdoc(getattr(paddock, name))


def test_the_package_gives_these_functions_and_its_version_and_no_more() -> None:
    assert set(paddock.__all__) == {*FIXED, "__version__"}
    assert dir(paddock) == sorted(paddock.__all__)
    assert paddock.__version__ == VERSION
    assert re.fullmatch(r"\d+\.\d+\.\d+", VERSION)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'get_model'"):
        _ = paddock.get_model


def python(code: str) -> str:
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    return ran.stdout.strip()


def test_importing_the_package_takes_under_a_fifth_of_a_second() -> None:
    """Processor time inside a fresh interpreter, after that interpreter's own start: the best of five."""
    code = "import time; start = time.process_time(); import paddock; print(time.process_time() - start)"
    assert min(float(python(code)) for _ in range(5)) < LIMIT_S


@pytest.mark.parametrize(
    "statement",
    ["import paddock", "import paddock.errors, paddock.model.names, paddock.model.units, paddock.model.finding"],
    ids=["the package", "names, errors and findings"],
)
def test_nothing_heavy_is_loaded_before_it_is_used(statement: str) -> None:
    loaded = python(f"import sys; {statement}; print(*sorted({{name.partition('.')[0] for name in sys.modules}}))")
    assert not HEAVY & set(loaded.split())


def modules_of(*arguments: str, **settings: str) -> set[str]:
    """The modules that are loaded when a command ends with success."""
    code = (
        "import atexit, sys; sys.argv[0] = 'paddock'; from paddock.cli.main import main;"
        "atexit.register(lambda: print(*sys.modules, file=sys.stderr)); main()"
    )
    line = [sys.executable, "-c", code, *arguments]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PADDOCK_")} | settings
    ran = subprocess.run(line, capture_output=True, text=True, timeout=60, check=True, env=environment)
    return set(ran.stderr.split())


@pytest.fixture
def small_volume(tmp_path: Path) -> Path:
    volume = Volume(tmp_path / "models")
    volume.prepare()
    publish(volume, A, {"m.gguf": b"weights"}, tmp_path)
    return volume.root


LIGHT = [["ls"], ["ls", "--json"], ["--help"], ["pull", "--help"], ["--version"]]


@pytest.mark.parametrize("arguments", LIGHT, ids=" ".join)
def test_a_command_that_only_lists_the_volume_or_prints_help_loads_nothing_heavy(
    small_volume: Path, arguments: list[str]
) -> None:
    loaded = modules_of(*arguments, PADDOCK_VOLUME=str(small_volume), PADDOCK_S3_URI="s3://bucket/prefix")
    assert not {*HEAVY, *CLIENTS, "rich", "gguf"} & loaded


def test_a_plan_of_a_local_file_loads_no_client(small_volume: Path, tmp_path: Path) -> None:
    """It does load `jinja2`, which parses the chat template."""
    (tmp_path / "m.gguf").write_bytes(tiny_model())
    loaded = modules_of("plan", str(tmp_path / "m.gguf"), PADDOCK_VOLUME=str(small_volume))
    assert not ({*HEAVY, *CLIENTS, "rich"} - {"jinja2"}) & loaded


def test_a_pull_from_the_hub_loads_no_pydantic_and_not_all_of_huggingface_hub(hub: HubService, tmp_path: Path) -> None:
    fill_repository(hub)
    environment = {"HF_ENDPOINT": hub.address, "PADDOCK_VOLUME": str(tmp_path / "models"), "NO_PROXY": "127.0.0.1"}
    loaded = modules_of("pull", NAME, "--quant", "Q8_0", HF_HOME=str(tmp_path), **environment)
    assert not {"huggingface_hub.hf_api", "pydantic", "rich", "boto3", "prefect"} & loaded


@pytest.mark.parametrize("name", FIXED)
def test_each_function_can_be_imported_first(name: str) -> None:
    assert python(f"from paddock import {name}; print({name}.__name__)") == name


def test_no_public_function_brings_the_orchestrator_the_hubs_client_or_the_engine_with_it() -> None:
    statement = f"from paddock import {', '.join(FIXED)}"
    loaded = python(f"import sys; {statement}; print(*sorted({{name.partition('.')[0] for name in sys.modules}}))")
    assert not {"prefect", "huggingface_hub", "boto3", "llama_cpp", "great_expectations"} & set(loaded.split())
