"""A repository of small models on a local Hub, and the clients and settings of a test that uses it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from infra.local.hub import HubService, LocalHub, serve_hub
from infra.local.s3 import S3Server
from paddock import settings
from paddock.lifecycle.acquire.pull import pull
from paddock.lifecycle.assess import validate
from paddock.lifecycle.assess.validate import Validation
from paddock.lifecycle.clients import Clients, connect
from paddock.model.artifact import Manifest
from paddock.model.names import ModelName
from paddock.model.reference import Reference
from paddock.planning.placement import Target
from paddock.planning.targets import THIS_MACHINE, UNBOUNDED
from tests.support.gguf import F32, STRING, U32, tiny_llama, tiny_shards

NAME = "org/tiny-GGUF"
MODEL = ModelName.parse(NAME)
CARD = b"---\nlicense: mit\n---\n# Tiny\n"
CONFIG = b'{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}'


Q4_K_M, Q6_K, Q8_0 = 15, 18, 7
"""Numbers of `general.file_type`."""


def tiny_model(layers: int = 1, *, name: str = "tiny", file_type: int = Q8_0) -> bytes:
    """A valid Llama model that the engine loads. Its bytes differ for each of the arguments."""
    file = tiny_llama(layers=layers).set("general.name", STRING, name)
    return file.set("general.file_type", U32, file_type).to_bytes()


def rejected_model() -> bytes:
    """A Llama model that can be parsed, and that the audit rejects: its epsilon is negative."""
    return tiny_llama().set("llama.attention.layer_norm_rms_epsilon", F32, -1.0).to_bytes()


def projector() -> bytes:
    """A multimodal projector that the audit accepts beside a model."""
    return tiny_llama().set("general.architecture", STRING, "clip").to_bytes()


def fill_repository(hub: HubService) -> str:
    """Fill a repository with two quantizations, a split one and the usual small files; returns its commit."""
    shards = tiny_shards(2)
    shards[0].set("general.file_type", U32, Q6_K)
    return hub.repository(NAME).commit(
        {
            "README.md": CARD,
            "config.json": CONFIG,
            "tokenizer_config.json": b'{"model_max_length": 256}',
            ".gitattributes": b"*.gguf filter=lfs\n",
            "tiny-Q8_0.gguf": tiny_model(),
            "tiny-Q4_K_M.gguf": tiny_model(file_type=Q4_K_M),
            "big/tiny-Q6_K-00001-of-00002.gguf": shards[0].to_bytes(),
            "big/tiny-Q6_K-00002-of-00002.gguf": shards[1].to_bytes(),
        }
    )


def use_hub(monkeypatch: pytest.MonkeyPatch, hub: HubService, home: Path) -> None:
    """Set the environment to this Hub and to a new volume, without S3."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE", "PADDOCK_S3_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_ENDPOINT", hub.address)
    monkeypatch.setenv("HF_HOME", str(home / "huggingface"))
    monkeypatch.setenv("PADDOCK_VOLUME", str(home / "models"))
    monkeypatch.setenv("PADDOCK_SEGMENT_BYTES", str(64 * 1024))
    monkeypatch.setenv("PADDOCK_THREADS", "1")  # other tests run at the same time
    monkeypatch.setenv("PADDOCK_BENCHMARK_BUDGET_S", "0")  # ... and disturb every benchmark
    monkeypatch.setenv("XDG_CACHE_HOME", str(own_cache(home)))


def own_cache(home: Path) -> Path:
    """A cache without the headers that other tests read, but with all else: an engine's facts take seconds."""
    shared = settings.load().cache / "paddock"
    cache = home / "cache" / "paddock"
    if not cache.exists():
        cache.mkdir(parents=True)
        for path in shared.glob("*"):
            if path.name != "headers":
                (cache / path.name).symlink_to(path)
    return cache.parent


def use_s3(monkeypatch: pytest.MonkeyPatch, s3: S3Server, prefix: str) -> None:
    """Set the environment to a prefix of the bucket."""
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PADDOCK_S3_URI", f"s3://{s3.bucket}/{prefix}")


@pytest.fixture
def clients(monkeypatch: pytest.MonkeyPatch, hub: HubService, tmp_path: Path) -> Clients:
    """The clients of a Hub with the tiny models, and of an empty volume; without S3."""
    use_hub(monkeypatch, hub, tmp_path)
    fill_repository(hub)
    return connect()


def copy_directory(source: Path, target: Path) -> None:
    """Copy the content of a directory into another one; links stay links, and hard links are shared by the copies."""
    target.mkdir(parents=True, exist_ok=True)
    subprocess.run(["cp", "-a", f"{source}/.", str(target)], check=True)


@pytest.fixture(scope="session")
def pulled_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the Hub of the tiny models, and a volume to which the default variant was pulled."""
    home = tmp_path_factory.mktemp("pulled")
    with pytest.MonkeyPatch.context() as patch, serve_hub(LocalHub(home / "hub")) as hub:
        use_hub(patch, hub, home)
        fill_repository(hub)
        pull(connect(), Reference(MODEL))
    return home


@pytest.fixture
def pulled(clients: Clients, pulled_home: Path, tmp_path: Path) -> Manifest:
    """The default variant, promoted on the volume of `clients`, as a pull leaves it. A pull starts two processes."""
    copy_directory(pulled_home / "hub", tmp_path / "hub")
    copy_directory(pulled_home / "models", clients.volume.root)
    (manifest,) = clients.volume.snapshots(MODEL)
    return manifest


def validate_snapshot(
    clients: Clients, manifest: Manifest, *, target: Target = UNBOUNDED, target_name: str = THIS_MACHINE
) -> Validation:
    """Run the steps of a validation for 128 tokens of context, but for the chat template and the Data Docs."""
    stored = validate.check_integrity(clients, manifest)
    audit = validate.audit_snapshot(clients, manifest)
    configuration = validate.check_configuration(clients, manifest, audit)
    compatibility = validate.check_compatibility(clients, manifest, 128, target=target)
    return validate.conclude(clients, manifest, audit, compatibility, [*stored, *configuration], target=target_name)
