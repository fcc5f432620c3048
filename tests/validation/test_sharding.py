from __future__ import annotations

import json
from pathlib import Path

import pytest

from paddock.errors import ConflictingConfiguration, CorruptFile, MissingShard, NoSuchFile, UnsafeName
from paddock.validation.sharding import check_model_sharding


def make(directory: Path, *names: str) -> Path:
    for name in names:
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * 10)
    return directory


def index(directory: Path, name: str, *shards: str) -> Path:
    weight_map = {f"tensor.{number}": shard for number, shard in enumerate(shards)}
    (directory / name).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return directory


GGUFS = ("m-00001-of-00002.gguf", "m-00002-of-00002.gguf")
TENSORS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
BINS = ("pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ((), (False, 0, [])),
        (("config.json", "README.md"), (False, 0, [])),
        (("mmproj-F16.gguf",), (False, 0, [])),
        (("m.gguf",), (False, 1, ["m.gguf"])),
        (("m.gguf", "mmproj.gguf"), (False, 1, ["m.gguf"])),
        (("model.safetensors",), (False, 1, ["model.safetensors"])),
        (("pytorch_model.bin",), (False, 1, ["pytorch_model.bin"])),
        (GGUFS, (True, 2, list(GGUFS))),
        (("m-00001-of-00001.gguf",), (False, 1, ["m-00001-of-00001.gguf"])),
        (TENSORS, (True, 2, list(TENSORS))),
        (BINS, (True, 2, list(BINS))),
        (tuple(f"Q8_0/{name}" for name in GGUFS), (True, 2, [f"Q8_0/{name}" for name in GGUFS])),
        ((*BINS, "model.safetensors"), (False, 1, ["model.safetensors"])),
        ((*TENSORS, "m.gguf"), (False, 1, ["m.gguf"])),
        (("m-Q4_K_M.gguf", "m-Q8_0-00001-of-00002.gguf", "m-Q8_0-00002-of-00002.gguf"), (True, 2, None)),
    ],
    ids=lambda value: (
        "+".join(value[:3]) if isinstance(value, tuple) and all(isinstance(one, str) for one in value) else ""
    ),
)
def test_file_names_show_whether_a_model_is_sharded(
    tmp_path: Path, names: tuple[str, ...], expected: tuple[bool, int, list[str] | None]
) -> None:
    sharded, count, files = check_model_sharding(make(tmp_path, *names))
    assert (sharded, count) == expected[:2]
    assert expected[2] is None or files == expected[2]
    assert files == sorted(files)


@pytest.mark.parametrize(
    ("name", "shards"), [("model.safetensors.index.json", TENSORS), ("pytorch_model.bin.index.json", BINS)]
)
def test_an_index_declares_the_shards(tmp_path: Path, name: str, shards: tuple[str, ...]) -> None:
    make(tmp_path, *shards)
    assert check_model_sharding(index(tmp_path, name, *shards, *shards)) == (True, 2, list(shards))


def test_the_index_of_a_format_without_weights_is_ignored(tmp_path: Path) -> None:
    make(tmp_path, *BINS)
    index(tmp_path, "model.safetensors.index.json", *TENSORS)
    index(tmp_path, "pytorch_model.bin.index.json", *BINS)
    assert check_model_sharding(tmp_path) == (True, 2, list(BINS))


@pytest.mark.parametrize("names", [GGUFS, TENSORS, BINS], ids=["gguf", "safetensors", "pytorch"])
@pytest.mark.parametrize("gone", [0, 1])
def test_a_missing_shard_is_named(tmp_path: Path, names: tuple[str, ...], gone: int) -> None:
    make(tmp_path, names[1 - gone])
    with pytest.raises(MissingShard, match=names[gone]):
        check_model_sharding(tmp_path)


def test_a_missing_shard_of_an_index_is_named(tmp_path: Path) -> None:
    make(tmp_path, TENSORS[0])
    index(tmp_path, "model.safetensors.index.json", *TENSORS)
    with pytest.raises(FileNotFoundError, match=TENSORS[1]):
        check_model_sharding(tmp_path)


def test_a_shard_with_a_number_beyond_its_count_is_ignored(tmp_path: Path) -> None:
    make(tmp_path, *GGUFS, "m-00000-of-00002.gguf", "m-00003-of-00002.gguf")
    assert check_model_sharding(tmp_path) == (True, 2, list(GGUFS))


def test_if_all_numbers_are_beyond_the_count_all_shards_are_missing(tmp_path: Path) -> None:
    with pytest.raises(MissingShard, match="00001-of-00002"):
        check_model_sharding(make(tmp_path, "m-00003-of-00002.gguf"))


def test_shards_that_declare_different_counts_are_refused(tmp_path: Path) -> None:
    make(tmp_path, *TENSORS, "model-00001-of-00003.safetensors")
    with pytest.raises(ConflictingConfiguration, match="different counts"):
        check_model_sharding(tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        "../../etc/passwd.bin",
        "/etc/passwd.bin",
        "a\\b.bin",
        "C:x.bin",
        ".hidden.bin",
        "a//b.bin",
        "a\nb.bin",
        "run.sh",
        "",
    ],
)
def test_an_index_that_names_an_unsafe_file_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UnsafeName):
        check_model_sharding(index(tmp_path, "model.safetensors.index.json", name))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"weight_map": []}',
        '{"weight_map": {}}',
        '{"weight_map": {"a": 1}}',
        "[" * 100_000,
        "\xff",
    ],
    ids=["empty", "torn", "list", "no map", "map is a list", "empty map", "number", "deep", "latin"],
)
def test_an_invalid_index_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(CorruptFile, match="index"):
        check_model_sharding(tmp_path)


def test_a_missing_directory_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(NoSuchFile, match="absent"):
        check_model_sharding(tmp_path / "absent")
