"""A server that follows promotions: no request is dropped, cut, or answered by two revisions."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from paddock.model.hardware import this_machine
from paddock.model.reference import SnapshotId
from paddock.serving.engine.llama_server import find_program
from paddock.serving.engine.supervisor import SupervisorLimits
from paddock.serving.switch.follow import PreparedRevision, Stored
from paddock.serving.switch.revision import EngineMemory, ServedRevision
from tests.support.fault_totals import Faults
from tests.support.serving import ServeProgram, engines_of, running
from tests.support.stores import MODEL
from tests.support.switching import (
    LONG,
    SHORT,
    FollowingServer,
    following_server,
    machine_for_one_engine,
    make_switching_volume,
    stream,
    streaming,
    unexpected,
)
from tests.support.waiting import wait_for


@pytest.fixture(scope="module")
def following(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FollowingServer]:
    with following_server(make_switching_volume(tmp_path_factory.mktemp("switching"))) as server:
        server.learn_texts()
        yield server


@pytest.fixture
def server(following: FollowingServer) -> FollowingServer:
    """The server, which serves revision `a` alone."""
    following.volume.machine = this_machine
    following.switch("a")
    wait_for(lambda: len(following.served.engines) == 1)
    return following


def test_new_requests_go_to_the_new_revision_and_a_stream_ends_on_the_old_one(server: FollowingServer) -> None:
    volume = server.volume
    with server.suspended_stream() as (old, result):
        server.switch("b")
        assert stream(server.client, max_tokens=8).revision == volume.label("b")
        whole = server.client.post("/v1/completions", json={"prompt": "Once", "max_tokens": 4})
        assert whole.headers["x-paddock-revision"] == volume.label("b")
        assert server.health["running"] == 1
        assert volume.in_use("a")
        old.resume()
        answer = result.result(30)
    assert (answer.revision, answer.problem) == (volume.label("a"), "")
    assert (answer.revision, answer.text) in server.texts
    wait_for(lambda: not old.is_running())
    wait_for(lambda: not volume.in_use("a"))
    assert volume.in_use("b")


def test_no_request_is_answered_from_files_that_were_found_damaged(server: FollowingServer) -> None:
    """The running answer is cut off, requests get a 503, and the repaired files of the same snapshot are loaded."""
    volume, client = server.volume.clients.volume, server.client
    manifest = server.volume.manifests["a"]
    (file,) = manifest.files
    content = volume.blob_path(file.sha256).read_bytes()
    with server.suspended_stream() as (old, result):
        volume.quarantine(file.sha256)
        assert result.result(30).problem
        wait_for(lambda: server.health["status"] == "damaged")
        wait_for(lambda: not old.is_running())  # killed, it is a zombie until the server collects it
    refused = client.post("/v1/completions", json={"prompt": "Once", "max_tokens": 4})
    assert (refused.status_code, client.get("/health").status_code) == (503, 503)
    assert "`paddock verify --repair`" in refused.json()["error"]["message"]
    volume.add_bytes(content)
    volume.publish(manifest)
    volume.drop_quarantined(file.sha256)
    wait_for(lambda: server.serves("a"))
    answer = stream(client, max_tokens=SHORT)
    assert (answer.revision, answer.text) in server.texts
    assert server.volume.in_use("a")


def test_a_revision_that_was_closed_has_no_files(server: FollowingServer, tmp_path: Path) -> None:
    """The descriptors of its files are those of other files then."""
    limits = SupervisorLimits(start_s=1.0)
    revision = ServedRevision(server.volume.spec("a"), find_program(None), limits, on_lost=lambda: None)
    assert len(revision.inodes) == 1
    revision.close_files()
    with (tmp_path / "another").open("w"), (tmp_path / "file").open("w"), (tmp_path / "third").open("w"):
        assert revision.inodes == frozenset()


def test_an_answer_of_an_engine_that_is_an_error_names_its_revision_too(server: FollowingServer) -> None:
    refused = server.client.post("/v1/completions", json={"prompt": "x" * 4000, "max_tokens": 4})
    assert refused.status_code == 400, refused.text
    assert refused.headers["x-paddock-revision"] == server.volume.label("a")


def test_a_rollback_while_the_earlier_engine_still_answers_goes_back_to_it(server: FollowingServer) -> None:
    with server.suspended_stream() as (old, result):
        server.switch("b")
        planned = len(server.volume.planned)
        server.volume.rollback()
        wait_for(lambda: server.serves("a"))
        assert len(server.volume.planned) == planned
        old.resume()
        assert result.result(30).problem == ""
    assert stream(server.client).revision == server.volume.label("a")
    wait_for(lambda: server.served.engines == [old])


def test_an_engine_that_dies_while_it_ends_its_answers_costs_these_alone(server: FollowingServer) -> None:
    before = server.health["restarts"]
    with server.suspended_stream() as (old, result):
        server.switch("b")
        old.kill()
        answer = result.result(30)
    assert "engine_died" in answer.problem
    assert answer.revision == server.volume.label("a")
    assert stream(server.client).revision == server.volume.label("b")
    assert server.health["restarts"] == before
    wait_for(lambda: not server.volume.in_use("a"))


def test_the_last_of_several_promotions_wins(server: FollowingServer) -> None:
    switched = len(server.served.switched)
    old = server.served.engines
    server.volume.promote("b")
    server.new_engine(old).suspend()
    server.switch("c")
    assert server.served.switched[switched:] == [server.volume.label("c")]
    assert len(server.served.engines) <= 2


def test_a_rollback_during_a_switch_leaves_what_is_served(server: FollowingServer) -> None:
    switched, old = len(server.served.switched), server.served.engines
    server.volume.promote("b")
    new = server.new_engine(old)
    new.suspend()
    server.volume.rollback()
    wait_for(lambda: not new.is_running())
    assert server.serves("a")
    assert server.served.switched[switched:] == []
    assert server.served.engines == old
    wait_for(lambda: not server.volume.in_use("b"))


@pytest.mark.parametrize("memory", ["for two engines", "for one engine"])
def test_a_revision_whose_canary_fails_is_tried_once_and_the_old_one_serves(
    server: FollowingServer, memory: str
) -> None:
    if memory == "for one engine":
        server.volume.machine = machine_for_one_engine
    failed, old = server.failures(), server.served.engines
    with streaming(server.served.url, max_tokens=SHORT) as results:
        server.volume.promote("f")
        wait_for(lambda: server.failures() > failed)
        planned = len(server.volume.planned)
        server.volume.promote("f")  # nothing changes
        wait_for(lambda: server.serves("a"))
        server.volume.wait_until_seen("f")
    assert unexpected(results, server.texts) == []
    assert {one.revision for one in results} == {server.volume.label("a")}
    assert (len(server.volume.planned), server.failures()) == (planned, failed + 1)
    assert (server.served.engines == old) is (memory == "for two engines")
    wait_for(lambda: not server.volume.in_use("f"))


def test_a_revision_whose_plan_does_not_fit_leaves_the_old_one(server: FollowingServer) -> None:
    failed, old, volume = server.failures(), server.served.engines, server.volume
    volume.machine = lambda: replace(this_machine(), ram_available_bytes=2**20, gpus=())
    volume.promote("c")
    wait_for(lambda: server.failures() > failed)
    assert server.serves("a")
    assert server.served.engines == old
    assert stream(server.client).problem == ""


def test_with_memory_for_one_engine_requests_wait_for_the_next_one(server: FollowingServer) -> None:
    server.volume.machine = machine_for_one_engine
    with server.suspended_stream() as (old, result):
        server.volume.promote("b")
        wait_for(lambda: server.health["status"] == "switching")
        assert server.client.get("/health").status_code == 200
        with ThreadPoolExecutor(1) as pool, httpx.Client(base_url=server.served.url, timeout=60) as client:
            waiting = pool.submit(stream, client)
            wait_for(lambda: server.health["waiting"] == 1)
            assert server.served.engines == [old]
            old.resume()
            assert result.result(30).problem == ""
            assert waiting.result(30).revision == server.volume.label("b")
    wait_for(lambda: len(server.served.engines) == 1)
    assert not old.is_running()


def test_a_stop_during_a_switch_lets_both_engines_end_their_answers(tmp_path: Path) -> None:
    volume = make_switching_volume(tmp_path)
    with following_server(volume) as own:
        with own.suspended_stream() as (old, first):
            own.switch("b")
            with ThreadPoolExecutor(1) as pool:
                began = threading.Event()
                second = pool.submit(stream, own.client, max_tokens=LONG, on_start=began.set)
                assert began.wait(30)
                volume.promote("c")
                wait_for(lambda: volume.planned[-1] == volume.manifests["c"].id)
                own.served.stop.set()
                refused = wait_for_stopping(own.served.url)
                old.resume()
                answers = [first.result(30), second.result(30)]
        assert own.served.ended.wait(30)
    assert refused == 503
    assert [one.problem for one in answers] == ["", ""]
    assert [one.revision for one in answers] == [volume.label("a"), volume.label("b")]
    assert not old.is_running()
    assert not volume.in_use("a")
    assert not volume.in_use("b")
    wait_for(lambda: not volume.in_use("c"))  # its plan ends by itself


def wait_for_stopping(url: str) -> int:
    """The status of /health once the server shuts down."""
    statuses: list[int] = []

    def look() -> bool:
        statuses.append(httpx.get(f"{url}/health").status_code)
        return statuses[-1] != 200

    wait_for(look)
    return statuses[-1]


class UnreachableVolume:
    """A name on a volume that blocks for ever."""

    def promoted(self) -> SnapshotId | None:
        threading.Event().wait()
        return None

    def stored(self, id: SnapshotId, inodes: Collection[tuple[int, int]]) -> Stored:
        raise AssertionError(f"{id} is never compared, with {len(inodes)} files")

    def prepare(self, id: SnapshotId, loaded: Sequence[EngineMemory]) -> PreparedRevision:
        raise AssertionError(f"{id} is never seen, with {len(loaded)} engines")


def test_a_volume_that_blocks_holds_up_neither_answers_nor_the_end(server: FollowingServer) -> None:
    with running(server.volume.spec("a"), follows=UnreachableVolume()) as served:
        time.sleep(0.1)  # the server looks at the volume in this time, and its look never ends
        with httpx.Client(base_url=served.url, timeout=30) as client:
            assert stream(client).problem == ""
        began = time.monotonic()
    assert time.monotonic() - began < 10
    assert served.ended.is_set()


def test_the_command_follows_its_name_and_ends_well_in_the_middle_of_a_switch(tmp_path: Path) -> None:
    volume = make_switching_volume(tmp_path)
    environment = {"PADDOCK_VOLUME": str(volume.clients.volume.root), "PADDOCK_THREADS": "1"}
    with ServeProgram(str(MODEL), "--ctx", "256", environment=environment) as program:
        assert program.output["revision"] == "a" * 40
        volume.promote("b")
        wait_for(lambda: httpx.get(f"{program.url}/v1/models").json()["data"][0]["revision"] == "b" * 40)
        wait_for(lambda: not volume.in_use("a"))
        with streaming(program.url, max_tokens=SHORT) as results:
            wait_for(lambda: results)
            volume.rollback()
            wait_for(lambda: len(engines_of(program.process.pid)) == 2)
            status, err = program.end()
    assert status == 0
    assert "cut off" not in err
    assert {one.revision for one in results if not one.problem} <= {volume.label("a"), volume.label("b")}
    assert [one for one in results if one.problem and one.text] == []  # none was cut
    assert not volume.in_use("a")
    assert not volume.in_use("b")
    used = {name: volume.clients.volume.usage.read(volume.manifests[name].id).usage for name in "ab"}
    assert used["b"].requests > 0
    assert all(one.uses >= 1 and one.seconds > 0 for one in used.values())


Switch = Callable[[FollowingServer, int], None]


def plainly(server: FollowingServer, number: int) -> None:
    """Promote `b` over `a`, or roll that back."""
    if number % 2 == 0:
        server.volume.promote("b")
    else:
        server.volume.rollback()
    wait_for(lambda: server.serves("ba"[number % 2]))


def with_a_failing_revision(server: FollowingServer, number: int) -> None:
    failed = server.failures()
    server.volume.promote("f")
    wait_for(lambda: server.failures() > failed)
    server.volume.rollback()
    plainly(server, number)


def with_a_killed_engine(server: FollowingServer, number: int) -> None:
    failed, old = server.failures(), server.served.engines
    server.volume.promote("c")
    server.new_engine(old).kill()
    wait_for(lambda: server.failures() > failed)
    server.volume.rollback()
    plainly(server, number)


def with_memory_for_one(server: FollowingServer, number: int) -> None:
    server.volume.machine = machine_for_one_engine
    (plainly, with_a_killed_engine, plainly, with_a_failing_revision)[number % 4](server, number)


_WAYS = (plainly, with_a_failing_revision, with_a_killed_engine, with_memory_for_one)
WAYS = pytest.mark.parametrize("switch", _WAYS, ids=[way.__name__ for way in _WAYS])


@WAYS
def test_no_stream_is_dropped_cut_or_mixed(server: FollowingServer, faults: Faults, switch: Switch) -> None:
    faults.add()
    switch_often(server, switch, times=1)


@pytest.mark.torture
@WAYS
def test_no_stream_is_dropped_cut_or_mixed_in_two_hundred_switches(
    server: FollowingServer, faults: Faults, switch: Switch
) -> None:
    faults.add(200)
    switch_often(server, switch, times=200)


def switch_often(server: FollowingServer, switch: Switch, *, times: int) -> None:
    """Promote and roll back under four streaming clients."""
    began, slowest = time.monotonic(), 0.0
    last = server.volume.label("ab"[times % 2])
    with streaming(server.served.url, clients=4, max_tokens=SHORT) as results:
        for number in range(times):
            started = time.monotonic()
            switch(server, number)
            slowest = max(slowest, time.monotonic() - started)
        wait_for(lambda: results[-1].revision == last)
    bad = unexpected(results, server.texts)
    took_s = time.monotonic() - began
    by_revision = {letter: sum(one.revision == server.volume.label(letter) for one in results) for letter in "ab"}
    print(
        f"{times} switches {switch.__name__} under four clients in {took_s:.0f} s, {slowest:.1f} s at most:"
        f" {len(results)} streams ({by_revision['a']} of a, {by_revision['b']} of b), {len(bad)} not whole or mixed"
    )
    assert bad == []
    assert all(by_revision.values())
    wait_for(lambda: len(server.served.engines) == 1)
