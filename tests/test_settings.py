"""Settings are read from environment variables, and bad values are refused without showing them."""

from __future__ import annotations

import ast
import os
import traceback
from dataclasses import FrozenInstanceError, asdict
from pathlib import Path
from typing import Any

import pytest

from paddock import settings
from paddock.errors import BadSetting
from paddock.settings import MIB, Secret, Settings

CANARY = "hf_canaryCANARYcanary"
HOME = "/home/someone"

# variable, field, value of the variable, value of the field
GOOD: list[tuple[str, str, str, object]] = [
    ("PADDOCK_VOLUME", "volume", "/srv/models", Path("/srv/models")),
    ("PADDOCK_VOLUME", "volume", "~/models", Path(HOME, "models")),
    ("PADDOCK_WORKER", "worker", "gpu-7.rack_2", "gpu-7.rack_2"),
    ("PADDOCK_S3_URI", "s3_uri", "s3://bucket/some/prefix/", "s3://bucket/some/prefix"),
    ("PADDOCK_S3_URI", "s3_uri", "s3://bucket", "s3://bucket"),
    ("PADDOCK_S3_PATH_STYLE", "s3_path_style", "1", True),
    ("PADDOCK_S3_ENCRYPTION", "s3_encryption", "aws:kms", "aws:kms"),
    ("PADDOCK_S3_STORAGE_CLASS", "s3_storage_class", "STANDARD_IA", "STANDARD_IA"),
    ("PADDOCK_LEASE_S", "lease_s", "5", 5.0),
    ("PADDOCK_KEEP_REVISIONS", "keep_revisions", "0", 0),
    ("PADDOCK_KEEP_BYTES", "keep_bytes", "80%", "80%"),
    ("PADDOCK_CATALOG", "catalog", "~/catalog.yaml", Path(HOME, "catalog.yaml")),
    ("PADDOCK_CATALOG", "catalog", "catalog.yaml", Path("catalog.yaml")),
    ("PADDOCK_S3_KEEP_BYTES", "s3_keep_bytes", "2TiB", "2TiB"),
    ("PADDOCK_SEGMENT_BYTES", "segment_bytes", "65536", 65536),
    ("PADDOCK_CONNECTIONS", "connections", "64", 64),
    ("PADDOCK_TRANSFER", "transfer", "xet", "xet"),
    ("PADDOCK_LIMIT_RATE", "limit_rate_bytes_per_s", "1024", 1024),
    ("PADDOCK_STALL_S", "stall_s", "0.5", 0.5),
    ("PADDOCK_THREADS", "threads", "3", 3),
    ("PADDOCK_ENGINE_TIMEOUT_S", "engine_timeout_s", "60", 60.0),
    ("PADDOCK_ENGINE_USER", "engine_user", "10001", 10001),
    ("PADDOCK_ENGINE_READS", "engine_reads", "/opt/driver:/opt/more", (Path("/opt/driver"), Path("/opt/more"))),
    ("PADDOCK_API_KEY", "api_key", CANARY, Secret(CANARY)),
    ("PADDOCK_SERVE_HOSTS", "serve_hosts", "*", ("*",)),
    (
        "PADDOCK_SERVE_HOSTS",
        "serve_hosts",
        "Chat.Example., gpu_7, 192.0.2.7, 2001:DB8::0:1, [::ffff:10.0.0.1]",
        ("chat.example", "gpu_7", "192.0.2.7", "2001:db8::1", "10.0.0.1"),
    ),
    ("PADDOCK_CORS_ORIGINS", "cors_origins", "*", ("*",)),
    (
        "PADDOCK_CORS_ORIGINS",
        "cors_origins",
        "https://chat.example, http://localhost:3000",
        ("https://chat.example", "http://localhost:3000"),
    ),
    ("PADDOCK_QUEUE", "queue", "0", 0),
    ("PADDOCK_BENCHMARK_BUDGET_S", "benchmark_budget_s", "0", 0.0),
    ("PADDOCK_PRICE_PER_HOUR", "price_per_hour", "2.10", 2.1),
    ("PADDOCK_PRICE_PER_HOUR", "price_per_hour", "15000", 15000.0),
    ("PADDOCK_LLAMA_SERVER", "llama_server", "/opt/llama-server", Path("/opt/llama-server")),
    ("PADDOCK_GRACE_S", "grace_s", "2.5", 2.5),
    ("PADDOCK_FOLLOW_PROMOTION", "follow_promotion", "0", False),
    ("PADDOCK_WATCH_S", "watch_s", "60", 60.0),
    ("PADDOCK_LOG_FORMAT", "log_format", "json", "json"),
    ("PADDOCK_DOCS_URL", "docs_url", "https://docs.example/models/", "https://docs.example/models"),
    ("PADDOCK_MAINTENANCE_CRON", "maintenance_cron", "0 2 * * sat", "0 2 * * sat"),
    ("PADDOCK_REFRESH_CRON", "refresh_cron", "0 4 * * 1-5", "0 4 * * 1-5"),
    ("XDG_CACHE_HOME", "cache", "/var/cache", Path("/var/cache")),
    ("HF_ENDPOINT", "hub_endpoint", "http://127.0.0.1:8080/", "http://127.0.0.1:8080"),
    ("HF_ENDPOINT", "hub_endpoint", "https://mirror.example/hf", "https://mirror.example/hf"),
    ("PADDOCK_API_KEY", "api_key", CANARY, Secret(CANARY)),
    ("HF_TOKEN", "hub_token", f" {CANARY}\n", Secret(CANARY)),
    ("HUGGING_FACE_HUB_TOKEN", "hub_token", CANARY, Secret(CANARY)),
    ("HF_HUB_ENABLE_HF_TRANSFER", "hub_transfer", "1", True),
    ("HF_HUB_OFFLINE", "hub_offline", "1", True),
    ("HF_HUB_OFFLINE", "hub_offline", "NO", False),
    ("https_proxy", "https_proxy", "proxy:3128", Secret("proxy:3128")),
    ("HTTP_PROXY", "http_proxy", "proxy:3128", Secret("proxy:3128")),
    ("ALL_PROXY", "all_proxy", CANARY, Secret(CANARY)),
    ("NO_PROXY", "no_proxy", "10.0.0.0/8,.example", "10.0.0.0/8,.example"),
    ("SSL_CERT_FILE", "ssl_cert_file", "our.pem", Path("our.pem")),
    ("REQUESTS_CA_BUNDLE", "requests_ca_bundle", "/etc/our.pem", Path("/etc/our.pem")),
    ("SSL_CERT_DIR", "ssl_cert_dir", "/etc/ours", Path("/etc/ours")),
]
DEFAULTS = {
    "volume": Path("/models"),
    "engine_user": 65432,
    "engine_reads": None,
    "worker": None,
    "s3_uri": None,
    "s3_path_style": None,
    "s3_encryption": None,
    "s3_kms_key": None,
    "s3_storage_class": None,
    "aws_keys": None,
    "lease_s": 30.0,
    "keep_revisions": 3,
    "keep_bytes": None,
    "catalog": None,
    "s3_keep_bytes": None,
    "segment_bytes": 64 * MIB,
    "connections": 16,
    "transfer": None,
    "limit_rate_bytes_per_s": None,
    "stall_s": 30.0,
    "threads": None,
    "engine_timeout_s": 1800.0,
    "benchmark_budget_s": 60.0,
    "price_per_hour": None,
    "serve_hosts": None,
    "cors_origins": None,
    "queue": 64,
    "grace_s": 20.0,
    "follow_promotion": True,
    "watch_s": 900.0,
    "llama_server": None,
    "log_format": "text",
    "docs_url": None,
    "maintenance_cron": "30 3 * * 0",
    "refresh_cron": "30 1 * * *",
    "cache": Path(HOME, ".cache"),
    "hub_endpoint": "https://huggingface.co",
    "hub_token": None,
    "api_key": None,
    "hub_transfer": False,
    "hub_offline": False,
    "https_proxy": None,
    "http_proxy": None,
    "all_proxy": None,
    "no_proxy": "",
    "ssl_cert_file": None,
    "requests_ca_bundle": None,
    "ssl_cert_dir": None,
}
BAD = [
    ("PADDOCK_VOLUME", "canary/models"),
    ("PADDOCK_VOLUME", "~nosuchcanary/models"),
    ("PADDOCK_WORKER", "canary/7"),
    ("PADDOCK_WORKER", "canary..7"),
    ("PADDOCK_WORKER", "canary" * 11),
    ("PADDOCK_CATALOG", "~nosuchcanary/catalog.yaml"),
    *(("PADDOCK_PRICE_PER_HOUR", text) for text in ("0", "-1", "nan", "inf", "1e3", "$canary", "2,10", "1_0", "1e-9")),
    ("PADDOCK_S3_URI", "s3://"),
    ("PADDOCK_S3_URI", "s3://key:canary@bucket/prefix"),
    ("PADDOCK_S3_URI", "s3://bucket/prefix?canary"),
    ("PADDOCK_S3_URI", "s3://canary℀/prefix"),
    ("PADDOCK_S3_URI", "s3://[canary"),
    ("PADDOCK_S3_PATH_STYLE", "canary"),
    ("PADDOCK_S3_ENCRYPTION", "canary"),
    ("PADDOCK_S3_KMS_KEY", "canary"),
    ("PADDOCK_S3_STORAGE_CLASS", "canary"),
    ("PADDOCK_LEASE_S", "0.5"),
    ("PADDOCK_KEEP_REVISIONS", "-1"),
    ("PADDOCK_KEEP_BYTES", "101%canary"),
    ("PADDOCK_S3_KEEP_BYTES", "80%"),
    ("PADDOCK_SEGMENT_BYTES", "65535"),
    ("PADDOCK_SEGMENT_BYTES", "64 canaries"),
    ("PADDOCK_SEGMENT_BYTES", "1073741825"),
    ("PADDOCK_CONNECTIONS", "0"),
    ("PADDOCK_CONNECTIONS", "65"),
    ("PADDOCK_CONNECTIONS", "2.5"),
    ("PADDOCK_TRANSFER", "canary"),
    ("PADDOCK_LIMIT_RATE", "1023"),
    ("PADDOCK_LIMIT_RATE", "1canary"),
    ("PADDOCK_STALL_S", "0"),
    ("PADDOCK_STALL_S", "nan"),
    ("PADDOCK_STALL_S", "601"),
    ("PADDOCK_THREADS", "-4"),
    ("PADDOCK_ENGINE_TIMEOUT_S", "inf"),
    ("PADDOCK_ENGINE_TIMEOUT_S", "-1"),
    ("XDG_CACHE_HOME", "canary"),
    *(
        ("PADDOCK_SERVE_HOSTS", text)
        for text in ("canary:80", "canary:", "https://canary", "canary/", "a..canary", "a,")
    ),
    ("PADDOCK_CORS_ORIGINS", "canary.example"),
    ("PADDOCK_CORS_ORIGINS", "https://canary.example/path"),
    ("PADDOCK_CORS_ORIGINS", "https://chat.example,,"),
    ("HF_ENDPOINT", "canary.example"),
    ("HF_ENDPOINT", "ftp://canary.example"),
    ("HF_ENDPOINT", "https://:canary@hub.example"),
    ("HF_ENDPOINT", "https://user:canary@hub.example"),
    ("HF_ENDPOINT", "https://hub.example:canary"),
    ("HF_ENDPOINT", "https://hub.example:99999"),
    ("HF_ENDPOINT", "https://hub.example/?token=canary"),
    ("HF_TOKEN", "canary two"),
    ("PADDOCK_API_KEY", "canary two"),
    ("PADDOCK_QUEUE", "-1"),
    ("PADDOCK_GRACE_S", "0"),
    ("PADDOCK_WATCH_S", "-1"),
    ("HF_TOKEN", "canary\x01"),
    ("HF_TOKEN", "canaryé"),
    ("HUGGING_FACE_HUB_TOKEN", "canary\ttwo"),
    ("HF_HUB_OFFLINE", "canary"),
]


@pytest.fixture(autouse=True)
def _empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in (*(row[0] for row in GOOD), "PADDOCK_S3_KMS_KEY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", HOME)


def test_without_an_environment_every_setting_has_its_default() -> None:
    assert asdict(settings.load()) == DEFAULTS


@pytest.mark.parametrize(("variable", "field", "given", "read"), GOOD, ids=[f"{row[0]}={row[2]!r}" for row in GOOD])
def test_a_variable_sets_its_field_and_no_other(
    monkeypatch: pytest.MonkeyPatch, variable: str, field: str, given: str, read: object
) -> None:
    monkeypatch.setenv(variable, given)
    assert asdict(settings.load()) == DEFAULTS | {field: read}


@pytest.mark.parametrize(("variable", "value"), BAD, ids=[f"{variable}={value!r}" for variable, value in BAD])
def test_a_bad_value_is_named_by_its_variable_and_not_shown(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(BadSetting) as caught:
        settings.load()
    error = caught.value
    assert f"the setting {variable} is not usable: " in error.message
    assert error.cure
    assert error.exit_status == 3
    assert "canary" not in "".join([str(error), repr(error), *traceback.format_exception(error)])


def test_a_kms_key_is_accepted_with_kms_encryption(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PADDOCK_S3_ENCRYPTION", "aws:kms")
    monkeypatch.setenv("PADDOCK_S3_KMS_KEY", "alias/models")
    assert settings.load().s3_kms_key == "alias/models"


@pytest.mark.parametrize("value", ["", " ", "\n"], ids=repr)
def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    for variable, *_ in GOOD:
        monkeypatch.setenv(variable, value)
    assert asdict(settings.load()) == DEFAULTS


def test_an_alias_is_read_if_the_first_variable_is_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "")
    monkeypatch.setenv("HUGGING_FACE_HUB_TOKEN", CANARY)
    token = settings.load().hub_token
    assert token is not None
    assert token.get_secret_value() == CANARY


def test_the_first_variable_of_a_setting_takes_precedence_over_its_alias(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", CANARY)
    monkeypatch.setenv("HUGGING_FACE_HUB_TOKEN", "another")
    token = settings.load().hub_token
    assert token is not None
    assert token.get_secret_value() == CANARY


@pytest.mark.parametrize("variable", ["VOLUME", "CACHE", "THREADS", "CONNECTIONS", "paddock_volume", "hf_token"])
def test_variables_of_other_programs_are_ignored(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "7")
    assert asdict(settings.load()) == DEFAULTS


def test_no_text_form_of_the_settings_contains_the_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", CANARY)
    loaded = settings.load()
    for text in (repr(loaded), str(loaded), f"{asdict(loaded)}", repr(vars(loaded))):
        assert CANARY not in text


def test_settings_are_immutable() -> None:
    loaded = settings.load()
    with pytest.raises(FrozenInstanceError):
        loaded.threads = 3  # type: ignore[misc]  # the point


def test_a_misspelt_field_is_refused() -> None:
    fields: dict[str, Any] = {"conections": 3}
    with pytest.raises(TypeError, match="conections"):
        Settings(**fields)


def test_constructing_settings_reads_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PADDOCK_CONNECTIONS", "3")
    assert Settings(threads=2).connections == 16


def test_a_child_process_gets_no_secrets_and_no_home_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "PREFECT_API_KEY", "HOME", "PYTHONPATH", "LD_PRELOAD"):
        monkeypatch.setenv(variable, CANARY)
    monkeypatch.setenv("PATH", "/usr/bin")
    monkeypatch.setenv("LD_LIBRARY_PATH", "/opt/lib")
    child = settings.child_environment(GGML_NO_BACKTRACE="1")
    assert child["PATH"] == "/usr/bin"
    assert child["LD_LIBRARY_PATH"] == "/opt/lib"
    assert child["GGML_NO_BACKTRACE"] == "1"
    assert child["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"  # as NVML counts
    assert CANARY not in child.values()


def test_no_other_module_of_the_library_reads_the_environment() -> None:
    package = Path(settings.__file__).parents[1]
    reading = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute)
        and node.attr in {"environ", "environb", "getenv"}
        and isinstance(node.value, ast.Name)
        and node.value.id == "os"
    }
    assert reading == {"settings/environment.py"}


def test_matplotlib_keeps_its_fonts_in_the_cache_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/cache")
    monkeypatch.setenv("MPLCONFIGDIR", "/srv/fonts")
    settings.keep_matplotlib_in_cache()
    assert os.environ["MPLCONFIGDIR"] == "/srv/fonts"
    monkeypatch.delenv("MPLCONFIGDIR")
    settings.keep_matplotlib_in_cache()
    assert os.environ["MPLCONFIGDIR"] == "/var/cache/paddock/matplotlib"
