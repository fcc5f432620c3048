"""A file of a snapshot that is edited after it was published is never served or measured: it is refused, named,
quarantined and repaired, whenever it is edited, and however."""

from __future__ import annotations

import json
import math
import os
import random
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from hashlib import sha256
from pathlib import Path

import httpx
import pytest

from infra.local.hub import LocalHub, serve_hub
from paddock.chat.template import CHAT_FILE, TEMPLATE_FILE
from paddock.cli.main import app
from paddock.errors import CorruptFile, ModelRejected, NoGguf
from paddock.lifecycle.acquire.pull import pull
from paddock.lifecycle.assess.chat_template import chat_of_snapshot
from paddock.lifecycle.assess.preflight import preflight
from paddock.lifecycle.assess.verified import open_snapshot
from paddock.lifecycle.clients import Clients, connect
from paddock.lifecycle.dossier.facts import gather
from paddock.lifecycle.locate import locate
from paddock.lifecycle.run.benchmark import benchmark, plan_of
from paddock.lifecycle.run.follow import followed_name
from paddock.lifecycle.run.quality import measure_quality
from paddock.lifecycle.run.serve import ServeRequest, make_spec, serve_snapshot
from paddock.lifecycle.upkeep.verify import check_manifests, verify
from paddock.model.artifact import Manifest
from paddock.model.finding import Verdict
from paddock.model.hardware import Machine, this_machine
from paddock.model.reference import Reference, SnapshotId, Variant
from paddock.planning.plan import PlanRequest
from paddock.planning.targets import UNBOUNDED
from paddock.serving.spec import ServeSpec, open_model
from paddock.store.open_snapshot import OpenSnapshot
from paddock.store.volume import Volume
from tests.support import edits
from tests.support.fault_totals import Faults
from tests.support.gguf import tiny_llama
from tests.support.serving import running
from tests.support.tiny_hub import CONFIG, NAME, Q4_K_M, rejected_model, tiny_model, use_hub
from tests.support.waiting import wait_for

WEIGHTS = "tiny-Q8_0.gguf"
FILES = (WEIGHTS, TEMPLATE_FILE, CHAT_FILE, "config.json")
EVIL = b"{% for m in messages %}{{ m['content'] }}{% endfor %}{{ messages.__class__ }}"


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Clients, Manifest, Manifest]]:
    """A snapshot, and another one to compare it with. Each test repairs what it edits."""
    home = tmp_path_factory.mktemp("edited")
    with pytest.MonkeyPatch.context() as patch, serve_hub(LocalHub(home / "hub")) as hub:
        use_hub(patch, hub, home)
        models = {WEIGHTS: tiny_model(2), "tiny-Q4_K_M.gguf": tiny_model(file_type=Q4_K_M)}
        hub.repository(NAME).commit({**models, "config.json": CONFIG})
        clients = connect()
        first, second = (
            pull(clients, Reference.parse(f"{NAME}:{name}"), target=UNBOUNDED).manifest for name in ("Q8_0", "Q4_K_M")
        )
        yield clients, first, second


class EditedVolume(Volume):
    """A volume of which somebody edits a file when the `number`th lease is taken."""

    def __init__(self, root: Path, edit: Callable[[], None], *, number: int) -> None:
        super().__init__(root)
        self._edit = edit
        self._left = number

    def lease(self, id: SnapshotId) -> AbstractContextManager[Path]:
        self._left -= 1
        if self._left == 0:
            self._edit()
        return super().lease(id)


def serve(clients: Clients, manifest: Manifest, _: Manifest) -> bool:
    """Whether the model was served: the server became ready."""
    stop, errors, ready = threading.Event(), list[BaseException](), threading.Event()

    def on_ready(_: object) -> None:
        ready.set()
        stop.set()

    def run() -> None:
        try:
            request = ServeRequest(port=0, context_tokens=128, parallel=1)
            serve_snapshot(clients, manifest, request, on_ready=on_ready, stop=stop)
        except BaseException as error:  # the test's thread raises it
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(120)
    assert not thread.is_alive()
    for error in errors:
        raise error
    return ready.is_set()


def bench(clients: Clients, manifest: Manifest, _: Manifest) -> bool:
    return bool(benchmark(clients, manifest, 128))


def quality(clients: Clients, manifest: Manifest, other: Manifest) -> bool:
    """With the edited one as the reference, so that it is open when the other one is leased."""
    return bool(measure_quality(clients, other, manifest, limit_tokens=512))


USES = {"serve": serve, "bench": bench, "quality": quality}


def edit_randomly(clients: Clients, manifest: Manifest, generator: random.Random) -> str:
    """Edit a file of a snapshot before it is used; returns what was done."""
    name, how = generator.choice(FILES), generator.choice([*edits.EDITS, "with its manifest"])
    path = clients.volume.snapshot_path(manifest.id) / name
    size = path.stat().st_size
    if how == "with its manifest":
        content = bytearray(path.read_bytes())
        content[generator.randrange(size)] ^= 1
        edits.with_its_manifest(clients.volume, manifest.id, name, bytes(content))
    else:
        edits.EDITS[how](path, generator.randrange(size))
    return f"{name} {how}"


def repair(clients: Clients, *manifests: Manifest) -> None:
    """As `paddock verify MODEL --repair`. Afterwards everything is as it was published."""
    check_manifests(clients, repair_damage=True)
    assert verify(clients, manifests, repair_damage=True).ok
    for manifest in manifests:
        with open_snapshot(clients, manifest):
            pass


@pytest.mark.parametrize("use", USES.values(), ids=USES)
@pytest.mark.parametrize("attempts", [8, pytest.param(100, marks=pytest.mark.torture)])
def test_a_file_that_was_edited_before_is_refused_named_and_repaired(
    stored: tuple[Clients, Manifest, Manifest],
    use: Callable[[Clients, Manifest, Manifest], bool],
    attempts: int,
    faults: Faults,
) -> None:
    clients, *variants = stored
    generator = random.Random(f"{use.__name__} {attempts}")
    for _ in range(attempts):
        done = edit_randomly(clients, variants[0], generator)
        with pytest.raises(CorruptFile, match="tiny-GGUF") as caught:
            print(done, use(clients, *variants))
        assert f"paddock verify {variants[0].id} --repair" in caught.value.cure
        repair(clients, *variants)
        faults.add()


@pytest.mark.torture
@pytest.mark.parametrize(("use", "number"), [(bench, 1), (quality, 2)], ids=["bench", "quality"])
def test_a_file_that_is_edited_between_audit_and_load_is_not_measured(
    stored: tuple[Clients, Manifest, Manifest],
    use: Callable[[Clients, Manifest, Manifest], bool],
    number: int,
    faults: Faults,
) -> None:
    clients, *variants = stored
    generator = random.Random(number)
    path = clients.volume.snapshot_path(variants[0].id) / WEIGHTS
    for _ in range(100):
        volume = EditedVolume(
            clients.volume.root,
            lambda: edits.in_place(path, generator.randrange(path.stat().st_size)),
            number=number,
        )
        with pytest.raises(CorruptFile, match=f"{WEIGHTS} .* was changed after it was published"):
            use(replace(clients, volume=volume), *variants)
        repair(clients, *variants)
        faults.add()
    assert clients.volume.report_names(variants[0].id) == []


def spec_of(clients: Clients, manifest: Manifest, opened: OpenSnapshot) -> ServeSpec:
    request = ServeRequest(context_tokens=128, parallel=1)
    spec = make_spec(clients, manifest, opened.directory, request, machine=this_machine())
    return replace(spec, check_files=opened.require_unchanged)


@pytest.mark.parametrize("attempts", [1, pytest.param(100, marks=pytest.mark.torture)])
def test_a_file_that_is_edited_between_audit_and_load_is_not_served(
    stored: tuple[Clients, Manifest, Manifest], attempts: int, faults: Faults
) -> None:
    """Before the engine is started, and while it loads the file."""
    (clients, manifest, _), generator = stored, random.Random(attempts)
    path = clients.volume.snapshot_path(manifest.id) / WEIGHTS
    for _ in range(attempts):
        while_loading, offset = generator.random() < 0.5, generator.randrange(path.stat().st_size)
        with open_snapshot(clients, manifest, at_end=False) as opened:
            spec = spec_of(clients, manifest, opened)
            edit = partial(edits.in_place, path, offset)
            if while_loading:
                spec = replace(spec, check_files=EditAfter(opened.require_unchanged, edit))
            else:
                edit()
            with pytest.raises(CorruptFile, match=f"{WEIGHTS} .* was changed after it was published"), running(spec):
                pass
        repair(clients, manifest)
        faults.add()


class EditAfter:
    """A check of files, after whose first call somebody edits one."""

    def __init__(self, check: Callable[[], None], edit: Callable[[], None]) -> None:
        self._check, self._edit = check, edit
        self._is_edited = False

    def __call__(self) -> None:
        self._check()
        if not self._is_edited:
            self._is_edited = True
            self._edit()


def test_a_server_whose_file_is_edited_refuses_requests_until_it_is_repaired(
    stored: tuple[Clients, Manifest, Manifest],
) -> None:
    clients, manifest, _ = stored
    path = clients.volume.snapshot_path(manifest.id) / WEIGHTS

    def plan(manifest: Manifest, directory: Path, machine: Machine) -> ServeSpec:
        request = ServeRequest(context_tokens=128, parallel=1)
        return make_spec(clients, manifest, directory, request, machine=machine)

    follows = followed_name(clients, manifest.id.reference, manifest.id, plan)
    with open_snapshot(clients, manifest, at_end=False) as opened:
        spec = spec_of(clients, manifest, opened)
        clients.volume.publish(replace(manifest, variant=Variant("linked")))
        with running(spec, follows=follows) as server:

            def status() -> int:
                body = {"prompt": "a", "max_tokens": 1}
                return httpx.post(f"{server.url}/v1/completions", json=body, timeout=30).status_code

            assert status() == 200, "a link of our own is no edit"
            edits.in_place(path, path.stat().st_size - 100)
            wait_for(lambda: status() == 503)
            repair(clients, manifest)
            wait_for(lambda: status() == 200)


def test_what_is_replaced_while_it_is_served_has_no_effect(stored: tuple[Clients, Manifest, Manifest]) -> None:
    """The engine, and each later start of it, gets the descriptors that were compared."""
    clients, manifest, _ = stored
    with open_snapshot(clients, manifest, at_end=False) as opened:
        spec = spec_of(clients, manifest, opened)
        for file in manifest.files:
            edits.by_another_file(clients.volume.snapshot_path(manifest.id) / file.path)
        with open_model(spec) as model:
            (weights,) = model.descriptors
            assert sha256(os.pread(weights, 2**24, 0)).hexdigest() == next(
                file.sha256 for file in manifest.files if file.path == WEIGHTS
            )
        spec.check_files()
    repair(clients, manifest)


def test_other_readers_refuse_an_edited_template(clients: Clients, pulled: Manifest) -> None:
    snapshot = clients.volume.snapshot_path(pulled.id)
    edits.by_another_file(snapshot / TEMPLATE_FILE)
    for read in (
        lambda: chat_of_snapshot(clients, pulled),
        lambda: preflight(clients, str(snapshot), PlanRequest(128)),
        lambda: plan_of(clients, pulled, 128, machine=this_machine()),
    ):
        with pytest.raises(CorruptFile, match=TEMPLATE_FILE):
            read()
    facts = gather(clients, pulled)
    assert (facts.chat, facts.verdict) == (None, Verdict.REJECT)
    assert TEMPLATE_FILE in facts.damage


def test_the_cure_for_an_edited_manifest_works_without_a_store(
    clients: Clients, pulled: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    edits.with_its_manifest(clients.volume, pulled.id, TEMPLATE_FILE, EVIL)
    with pytest.raises(CorruptFile) as caught:
        locate(clients, pulled.id.reference)
    assert f"`paddock verify {pulled.id} --repair`" in caught.value.cure
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert app(["verify", str(pulled.id), "--repair"], standalone_mode=False) == 0
    with open_snapshot(clients, locate(clients, pulled.id.reference)) as opened:
        assert opened.manifest == pulled


def test_a_plan_of_a_snapshot_sees_no_planted_model(clients: Clients, pulled: Manifest) -> None:
    snapshot = clients.volume.snapshot_path(pulled.id)
    (snapshot / "A-Q8_0.gguf").write_bytes(tiny_model(3))
    assert preflight(clients, str(snapshot), PlanRequest(128)).file == WEIGHTS
    with pytest.raises(NoGguf):
        preflight(clients, str(snapshot / "A-Q8_0.gguf"), PlanRequest(128))


def with_nan() -> bytes:
    """A model with a weight that is not finite."""
    file = tiny_llama()
    file.tensor("output_norm.weight").data = struct.pack("<32f", *([1.0] * 31), math.nan)
    return file.to_bytes()


class TestWithoutARecord:
    """Somebody edits a file and all that describes it, and removes the record of the publication."""

    def test_a_sound_snapshot_is_audited_once_and_recorded(
        self, clients: Clients, pulled: Manifest, caplog: pytest.LogCaptureFixture
    ) -> None:
        clients.volume.published.remove(pulled.id, visible=lambda: None)
        for _ in range(2):
            with open_snapshot(clients, pulled) as opened:
                assert opened.is_recorded
        assert [record.getMessage() for record in caplog.records if "is not recorded" in record.getMessage()] == [
            f"the publication of {pulled.id} is not recorded, since an earlier version of Paddock published it, or"
            " somebody removed the record: all of its files are read and audited"
        ]

    def test_settings_that_the_template_does_not_lead_to_are_not_used(self, clients: Clients, pulled: Manifest) -> None:
        settings = json.loads((clients.volume.snapshot_path(pulled.id) / CHAT_FILE).read_text())
        forged = json.dumps({**settings, "stop": ["the"]}).encode()
        edits.with_its_manifest(clients.volume, pulled.id, CHAT_FILE, forged, recorded=False)
        manifest = clients.volume.snapshot(pulled.id)
        assert manifest is not None
        with pytest.raises(CorruptFile, match="has other settings than its chat template leads to"):
            serve(clients, manifest, manifest)

    @pytest.mark.parametrize(
        ("name", "content"),
        [
            (TEMPLATE_FILE, EVIL),
            (WEIGHTS, rejected_model()),
            (WEIGHTS, with_nan()),
        ],
        ids=["a template that escapes", "a header that is rejected", "weights that are not finite"],
    )
    def test_what_the_audit_rejects_is_not_used(
        self, clients: Clients, pulled: Manifest, name: str, content: bytes
    ) -> None:
        edits.with_its_manifest(clients.volume, pulled.id, name, content, recorded=False)
        manifest = clients.volume.snapshot(pulled.id)
        assert manifest is not None
        for use in (serve, bench):
            with pytest.raises(ModelRejected):
                use(clients, manifest, manifest)
