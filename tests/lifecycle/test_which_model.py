"""Which of a repository's GGUF files is the model: the best sound file of the main family, whatever else is there."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from infra.local.hub import HubService
from infra.local.s3 import S3Server
from paddock.errors import FileNotInRevision, NoGguf
from paddock.gguf.directory import get_gguf_file_path
from paddock.lifecycle.acquire.acquire import SERVED
from paddock.lifecycle.acquire.cache import push_snapshot
from paddock.lifecycle.acquire.pull import pull
from paddock.lifecycle.acquire.restore import restore
from paddock.lifecycle.assess.inspect import inspect
from paddock.lifecycle.assess.model_source import source_from_argument, source_from_listing
from paddock.lifecycle.assess.preflight import choose_fitting, preflight
from paddock.lifecycle.assess.sound_models import best_sound_model
from paddock.lifecycle.clients import Clients, connect
from paddock.lifecycle.steps import PlainRunner
from paddock.model.names import ModelName
from paddock.model.quantization import PREFERRED, quantization_of
from paddock.model.reference import Reference
from paddock.planning.plan import PlanRequest
from paddock.validation.sharding import check_model_sharding
from tests.support import side_files
from tests.support.gguf import STRING, U32, tiny_llama, tiny_shards
from tests.support.tiny_hub import use_s3

FILE_TYPES = {"Q8_0": 7, "Q6_K": 18, "Q5_K_M": 17, "Q4_K_M": 15, "Q4_K_S": 14, "Q2_K": 10, "F16": 1}


@cache
def model(label: str = "Q8_0", layers: int = 2, width: int = 32, name: str = "tiny") -> bytes:
    file = tiny_llama(layers=layers, width=width, template=None).set("general.name", STRING, name)
    return file.set("general.file_type", U32, FILE_TYPES[label]).to_bytes()


@cache
def shards(label: str, layers: int, width: int) -> tuple[bytes, bytes]:
    first, second = tiny_shards(2, layers=layers, width=width, template=None)
    return first.set("general.file_type", U32, FILE_TYPES[label]).to_bytes(), second.to_bytes()


Q8, Q6, Q4 = model("Q8_0"), model("Q6_K"), model("Q4_K_M")
SMALL = model("Q8_0", layers=1)
CASES = {
    "an importance matrix at the top": (
        {"imatrix.gguf": side_files.importance_matrix(), "Q8_0/m-Q8_0.gguf": Q8, "Q4_K_M/m-Q4_K_M.gguf": Q4},
        "Q8_0/m-Q8_0.gguf",
    ),
    "a draft head at the top": ({"mtp-m.gguf": side_files.draft_head(), "Q4_K_M/m.gguf": Q4}, "Q4_K_M/m.gguf"),
    "a draft head with a better label": (
        {"mtp-m-Q8_0.gguf": side_files.draft_head(), "m-Q4_K_M.gguf": Q4},
        "m-Q4_K_M.gguf",
    ),
    "a smaller sibling with a better label": ({"m-1b-Q8_0.gguf": SMALL, "m-7b-Q4_K_M.gguf": Q4}, "m-7b-Q4_K_M.gguf"),
    "an adapter": ({"m-lora-Q8_0.gguf": side_files.adapter(), "m-Q4_K_M.gguf": Q4}, "m-Q4_K_M.gguf"),
    "a control vector": ({"happy-Q8_0.gguf": side_files.control_vector(), "m-Q4_K_M.gguf": Q4}, "m-Q4_K_M.gguf"),
    "a vocabulary": ({"vocab-Q8_0.gguf": side_files.vocabulary(), "m-Q4_K_M.gguf": Q4}, "m-Q4_K_M.gguf"),
    "a projector with another name": (
        {"m-vision-Q8_0.gguf": side_files.projector(), "m-Q4_K_M.gguf": Q4},
        "m-Q4_K_M.gguf",
    ),
    "a model that is named like a projector": (
        {"not-mmproj-Q4_K_M.gguf": Q4, "mmproj-F16.gguf": side_files.projector()},
        "not-mmproj-Q4_K_M.gguf",
    ),
    "an empty file": ({"m-Q8_0.gguf": b"", "m-Q6_K.gguf": Q6}, "m-Q6_K.gguf"),
    "an LFS pointer": ({"m-Q8_0.gguf": side_files.LFS_POINTER, "m-Q6_K.gguf": Q6}, "m-Q6_K.gguf"),
    "a truncated file": ({"m-Q8_0.gguf": Q8[:-64], "m-Q6_K.gguf": Q6}, "m-Q6_K.gguf"),
    "a truncated header": ({"m-Q8_0.gguf": Q8[:900], "m-Q6_K.gguf": Q6}, "m-Q6_K.gguf"),
    "shards that were joined": ({"m-Q8_0.gguf": side_files.joined_shards(), "m-Q6_K.gguf": Q6}, "m-Q6_K.gguf"),
    "a shard that is missing": (
        {"m-Q8_0-00001-of-00002.gguf": shards("Q8_0", 2, 32)[0], "m-Q6_K.gguf": Q6},
        "m-Q6_K.gguf",
    ),
    "raw parts": (
        {"m-Q8_0.gguf.part1of2": Q8[:9000], "m-Q8_0.gguf.part2of2": Q8[9000:], "m-Q6_K.gguf": Q6},
        "m-Q6_K.gguf",
    ),
    "a broken file is the only one of the larger model": (
        {"m-7b-Q8_0.gguf": Q8[:-64], "m-1b-Q8_0.gguf": SMALL},
        "m-1b-Q8_0.gguf",
    ),
    "a small model of the same name elsewhere": ({"small/m-Q8_0.gguf": SMALL, "m-Q4_K_M.gguf": Q4}, "m-Q4_K_M.gguf"),
}


@pytest.mark.parametrize(("files", "expected"), CASES.values(), ids=CASES)
def test_the_best_sound_file_of_the_main_model_is_chosen_and_the_rest_named(
    clients: Clients, hub: HubService, tmp_path: Path, files: dict[str, bytes], expected: str
) -> None:
    hub.repository("org/case").commit(files)
    listing = clients.hub.listing(ModelName.parse("org/case"))
    source = source_from_listing(clients, listing)
    assert best_sound_model(source).first == expected
    directory = write(tmp_path / "directory", files)
    assert best_sound_model(source_from_argument(clients, str(directory))).first == expected
    assert get_gguf_file_path(directory) == directory / expected
    assert check_model_sharding(directory) == (False, 1, [expected])


def write(directory: Path, files: dict[str, bytes]) -> Path:
    for path, content in files.items():
        (directory / path).parent.mkdir(parents=True, exist_ok=True)
        (directory / path).write_bytes(content)
    return directory


def test_a_pull_says_which_better_file_it_passed_over_and_a_plan_names_every_one(
    clients: Clients, hub: HubService
) -> None:
    files = {"m-Q8_0.gguf": Q8[:-64], "m-Q4_K_M.gguf": Q4, "imatrix.gguf": side_files.importance_matrix()}
    files |= {"m-Q2_K.gguf": b""}
    hub.repository("org/case").commit(files)
    planned = preflight(clients, "org/case", PlanRequest(256))
    reasons = dict(planned.passed_over)
    assert "but the file" in reasons["m-Q8_0.gguf"]
    assert reasons["imatrix.gguf"] == "an importance matrix for quantization"
    pulled = pull(clients, Reference.parse("org/case"))
    assert pulled.manifest.variant == "Q4_K_M"
    [note] = [note for note in pulled.notes if "passed over" in note]
    assert note.startswith("m-Q8_0.gguf was passed over: the data of ")


def test_what_is_passed_over_is_taken_when_it_is_asked_for_by_name(clients: Clients, hub: HubService) -> None:
    hub.repository("org/case").commit({"m-1b-Q8_0.gguf": SMALL, "m-7b-Q4_K_M.gguf": Q4})
    for asked in ("m-1b-Q8_0", "m-1b-Q8_0.gguf"):
        assert preflight(clients, "org/case", PlanRequest(256), quantization=asked).file == "m-1b-Q8_0.gguf"
    assert preflight(clients, "org/case:m-1b-Q8_0", PlanRequest(256)).file == "m-1b-Q8_0.gguf"
    assert "m-1b-Q8_0.gguf" in inspect(clients, "org/case:m-1b-Q8_0").name


def test_a_quantization_that_only_the_header_states_is_found(clients: Clients, hub: HubService) -> None:
    hub.repository("org/case").commit({"m-Q8_K_P.gguf": Q8, "m-Q4_K_P.gguf": Q4})
    planned = preflight(clients, "org/case", PlanRequest(256))
    for asked in (planned.quantization, planned.variant, planned.file, "Q8_K_P"):
        listing = clients.hub.listing(ModelName.parse("org/case"))
        chosen = choose_fitting(clients, listing, SERVED, quantization=asked or "")
        assert chosen.choice.model_files == ("m-Q8_K_P.gguf",)
    with pytest.raises(FileNotInRevision, match="use one of m-Q4_K_P, m-Q8_K_P, or name a file with --file"):
        preflight(clients, "org/case", PlanRequest(256), quantization="Q5_K_M")


@pytest.mark.parametrize(
    ("names", "asked", "expected"),
    [
        (["S-Compact.gguf", "S-I-Compact.gguf"], "I-Compact", "S-I-Compact.gguf"),
        (["S-Compact.gguf", "S-I-Compact.gguf"], "compact", "S-Compact.gguf"),
        (["m-fp16.gguf"], "FP16", "m-fp16.gguf"),
        (["m-Q4_K_M.gguf", "m-Q4_K_M-mtp.gguf"], "Q4_K_M", "m-Q4_K_M.gguf"),
        (["m-Q4_K_M.gguf", "m-Q4_K_M-mtp.gguf"], "m-Q4_K_M-mtp", "m-Q4_K_M-mtp.gguf"),
    ],
)
def test_a_label_of_a_file_is_accepted(
    clients: Clients, hub: HubService, names: list[str], asked: str, expected: str
) -> None:
    hub.repository("org/case").commit({name: model("Q4_K_M", name=name) for name in names})
    listing = clients.hub.listing(ModelName.parse("org/case"))
    assert choose_fitting(clients, listing, SERVED, quantization=asked).choice.model_files == (expected,)


def test_raw_parts_alone_are_refused_with_the_command_that_joins_them(clients: Clients, hub: HubService) -> None:
    hub.repository("org/case").commit({"m-Q8_0.gguf-split-a": Q8[:9000], "m-Q8_0.gguf-split-b": Q8[9000:]})
    with pytest.raises(NoGguf, match=r"only raw parts of one: m-Q8_0.gguf-split-a, m-Q8_0.gguf-split-b") as raised:
        pull(clients, Reference.parse("org/case"))
    assert "cat PART1 PART2 > model.gguf" in raised.value.cure


def test_the_projector_of_the_models_width_in_the_nearest_directory_is_chosen(
    clients: Clients, hub: HubService
) -> None:
    files = {
        "mmproj-F16.gguf": side_files.projector(64),
        "2b/eyes-BF16.gguf": side_files.projector(64),
        "2b/mmproj-F16.gguf": side_files.projector(32),
        "2b/m-Q8_0.gguf": Q8,
        "other/eyes-F16.gguf": side_files.projector(32) + bytes(32),
    }
    hub.repository("org/case").commit(files)
    listing = clients.hub.listing(ModelName.parse("org/case"))
    chosen = choose_fitting(clients, listing, SERVED, projector=True)
    assert chosen.choice.projector is not None
    assert chosen.choice.projector.first == "2b/mmproj-F16.gguf"
    named = choose_fitting(clients, listing, SERVED, files=["2b/m-Q8_0.gguf"], projector=True)
    assert named.choice.projector == chosen.choice.projector
    hub.repository("org/case").commit(
        {"2b/mmproj-F16.gguf": None, "other/eyes-F16.gguf": None, "2b/eyes-BF16.gguf": None}
    )
    listing = clients.hub.listing(ModelName.parse("org/case"))
    with pytest.raises(FileNotInRevision, match=r"has no projector for 2b/m-Q8_0.gguf: mmproj-F16.gguf .* width"):
        choose_fitting(clients, listing, SERVED, projector=True)


def test_a_header_is_fetched_once_and_many_files_cost_few_requests(clients: Clients, hub: HubService) -> None:
    files = {f"m-{label}-{number}.gguf": model(label, name=str(number)) for label in FILE_TYPES for number in range(6)}
    files |= {f"draft-{label}.gguf": model(label, layers=1) for label in FILE_TYPES}
    files |= {f"mmproj-{number}.gguf": side_files.projector() for number in range(8)}
    files |= {"imatrix.gguf": side_files.importance_matrix(), "m-lora.gguf": side_files.adapter()}
    assert len(files) >= 59
    hub.repository("org/many").commit(files)
    hub.reset_stats()
    first = preflight(clients, "org/many", PlanRequest(256))
    assert (first.quantization, first.file) == ("Q8_0", "m-Q8_0-0.gguf")
    assert sum(hub.stats().requests.values()) - 1 <= 12
    hub.reset_stats()
    second = preflight(clients, "org/many", PlanRequest(256))
    assert second.file == first.file
    assert sum(hub.stats().requests.values()) == 1, "the listing"
    assert (first.bytes_read > 0, second.bytes_read) == (True, 0)


def test_quantizations_of_one_model_cost_the_header_of_the_chosen_and_the_head_of_the_largest(
    clients: Clients, hub: HubService
) -> None:
    hub.repository("org/case").commit({"m-Q8_0.gguf": Q8, "m-Q4_K_M.gguf": Q4, "m-F16.gguf": model("F16") + bytes(0)})
    hub.repository("org/case").commit({"big/m-F32.gguf": tiny_llama(layers=2, template=None).to_bytes()})
    hub.reset_stats()
    planned = preflight(clients, "org/case", PlanRequest(256))
    assert planned.file == "m-Q8_0.gguf"
    read = {path.rpartition("case/")[2] for path in hub.stats().bytes_sent}
    assert "m-Q4_K_M.gguf" not in read
    assert len(read) <= 2


@dataclass(frozen=True)
class Made:
    """A file of a random repository. `rank` is that of a sound model of the main family, None for all others."""

    path: str
    content: bytes
    layers: int
    label: str
    sound: bool


def random_repository(seed: int) -> list[Made]:
    """A main model, other models, side files and broken files with random names and places."""
    draw = random.Random(seed)
    made: list[Made] = []
    stem = draw.choice(["tiny", "Tiny-7B-Instruct", "model", "a.b-c_d"])

    def place(name: str) -> str:
        return draw.choice(["", "", "", "gguf/", "x/y/"]) + name

    def add(path: str, content: bytes, *, layers: int = 0, label: str = "", sound: bool = False) -> None:
        if path.lower() not in {one.path.lower() for one in made}:
            made.append(Made(path, content, layers, label, sound))

    families = [(5, stem), (2, f"{stem}-small"), (1, "other")][: draw.randint(1, 3)]
    for layers, name in families:
        for label in draw.sample(list(FILE_TYPES), draw.randint(1, 4)):
            written = draw.choice([label, label, label, label.lower(), f"UD-{label}", ""])
            path = f"{name}-{written}.gguf" if written else f"{name}.gguf"
            path = f"{label}/{path}" if draw.random() < 0.2 else place(path)
            breakage = draw.choice([None, None, None, "empty", "pointer", "cut", "cut header"])
            content = model(label, layers=layers)
            broken = {
                "empty": b"",
                "pointer": side_files.LFS_POINTER,
                "cut": content[:-64],
                "cut header": content[:700],
            }
            stated = quantization_of(path) == label
            if breakage:
                add(path, broken[breakage])
            elif draw.random() < 0.15:
                for number, shard in enumerate(shards(label, layers, 32), start=1):
                    shard_path = f"{path[:-5]}-0000{number}-of-00002.gguf"
                    add(shard_path, shard, layers=layers, label=label if stated else "", sound=number == 1)
            else:
                add(path, content, layers=layers, label=label if stated else "", sound=True)
    sides = [
        ("imatrix.gguf", side_files.importance_matrix()),
        (f"{stem}-lora-Q8_0.gguf", side_files.adapter()),
        ("mmproj-F16.gguf", side_files.projector()),
        (f"{stem}-vision-Q6_K.gguf", side_files.projector()),
        (f"mtp-{stem}-Q8_0.gguf", side_files.draft_head()),
        ("vocab.gguf", side_files.vocabulary()),
        (f"{stem}-Q8_0.gguf.part1of2", Q8[:5000]),
    ]
    for name, content in draw.sample(sides, draw.randint(0, 5)):
        add(place(name), content)
    draw.shuffle(made)
    return made


def expected_paths(made: list[Made]) -> set[str]:
    """The oracle: the best label among the sound models with the most layers, those at the top first.

    A model without one of the preferred labels in its name ranks by its size; all of one family have one size here, so
    any of those is right.
    """
    sound = [one for one in made if one.sound]
    if not sound:
        return set()
    main = [one for one in sound if one.layers == max(one.layers for one in sound)]
    top = [one for one in main if "/" not in one.path] or main
    order = [label for label in PREFERRED if any(one.label == label for one in top)]
    if not order:
        return {one.path for one in top}
    return {one.path for one in top if one.label == order[0]}


def check_random_repository(clients: Clients, hub: HubService, directory: Path, seed: int) -> None:
    """On the Hub, where a few headers have to do, for each fourth seed; else in a directory."""
    made = random_repository(seed)
    expected = expected_paths(made)
    files = {one.path: one.content for one in made}
    if not expected:
        return
    if seed % 4 == 0:
        hub.repository(f"org/random-{seed}").commit(files)
        listing = clients.hub.listing(ModelName.parse(f"org/random-{seed}"))
        chosen = best_sound_model(source_from_listing(clients, listing)).first
    else:
        write(directory, files)
        chosen = best_sound_model(source_from_argument(clients, str(directory))).first
        assert get_gguf_file_path(directory) == directory / chosen
    assert chosen in expected, f"seed {seed}: {[(path, len(content)) for path, content in files.items()]}"


@pytest.mark.parametrize(
    "seeds",
    [range(60), pytest.param(range(60, 2200), marks=pytest.mark.torture)],
    ids=["60", "2140 more"],
)
def test_the_model_of_random_repositories_is_the_one_that_an_oracle_names(
    clients: Clients, hub: HubService, tmp_path: Path, seeds: range
) -> None:
    for seed in seeds:
        check_random_repository(clients, hub, tmp_path / str(seed), seed)


def test_a_projector_with_another_name_is_stored_sent_and_restored_beside_its_model(
    monkeypatch: pytest.MonkeyPatch, clients: Clients, hub: HubService, s3: S3Server, tmp_path: Path
) -> None:
    hub.repository("org/case").commit({"m-Q8_0.gguf": Q8, "eyes-F16.gguf": side_files.projector()})
    use_s3(monkeypatch, s3, tmp_path.name)
    first = connect()
    pulled = pull(first, Reference.parse("org/case"), projector=True).manifest
    assert {file.path for file in pulled.files if file.path.endswith(".gguf")} == {"m-Q8_0.gguf", "eyes-F16.gguf"}
    assert pulled.variant == "Q8_0-mmproj"
    assert get_gguf_file_path(first.volume.snapshot_path(pulled.id)).name == "m-Q8_0.gguf"
    push_snapshot(first, pulled)
    monkeypatch.setenv("PADDOCK_VOLUME", str(tmp_path / "second"))
    second = connect()
    assert restore(PlainRunner(second), Reference.parse("org/case")).manifest == pulled
