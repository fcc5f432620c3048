"""The runner retries steps by their kind, and reports their lines and warnings."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from paddock.errors import HubUnavailable, NotOnVolume
from paddock.lifecycle.clients import Clients
from paddock.lifecycle.retries import JITTER, RETRY_DELAYS_S, Kind
from paddock.lifecycle.steps import PlainRunner, Step, step


def failing(kind: Kind, times: int, error: Exception) -> tuple[Step[..., str], list[str]]:
    """A step that fails so many times, and the names that it was called with."""
    calls: list[str] = []

    @step(kind, "greet-{name}", line=lambda greeting: f"said {greeting}", warnings=lambda _: ("it was late",))
    def greet(clients: Clients, name: str) -> str:
        calls.append(name)
        if len(calls) <= times:
            raise error
        return f"hello {name}"

    return greet, calls


@pytest.mark.parametrize("kind", [kind for kind, delays_s in RETRY_DELAYS_S.items() if delays_s])
def test_a_transient_failure_is_tried_again_with_jittered_delays(clients: Clients, kind: Kind) -> None:
    delays_s = RETRY_DELAYS_S[kind]
    greet, calls = failing(kind, len(delays_s), HubUnavailable("it is busy", cure="try later"))
    slept: list[float] = []
    lines: list[str] = []
    runner = PlainRunner(clients, retry=True, on_line=lines.append, sleep=slept.append)
    assert runner.run(greet, "you") == "hello you"
    assert calls == ["you"] * (len(delays_s) + 1)
    for pause_s, delay_s in zip(slept, delays_s, strict=True):
        assert delay_s <= pause_s <= delay_s * (1 + JITTER)
    assert lines == ["said hello you"]


def test_the_last_failure_is_raised(clients: Clients) -> None:
    greet, calls = failing(Kind.HUB, 99, HubUnavailable("it is busy", cure="try later"))
    with pytest.raises(HubUnavailable):
        PlainRunner(clients, retry=True, sleep=lambda _: None).run(greet, "you")
    assert len(calls) == len(RETRY_DELAYS_S[Kind.HUB]) + 1


def no_sleep(_: float) -> None:
    raise AssertionError("it must not wait")


@pytest.mark.parametrize(
    ("runner", "kind", "error"),
    [
        (lambda clients: PlainRunner(clients, retry=True, sleep=no_sleep), Kind.HUB, NotOnVolume("no", cure="pull")),
        (lambda clients: PlainRunner(clients, retry=True, sleep=no_sleep), Kind.ENGINE, HubUnavailable("no")),
        (lambda clients: PlainRunner(clients, sleep=no_sleep), Kind.HUB, HubUnavailable("no")),
    ],
    ids=["a permanent error", "a step that is not retried", "a runner that does not retry"],
)
def test_other_failures_are_raised_at_the_first_try(
    clients: Clients, runner: Callable[[Clients], PlainRunner], kind: Kind, error: Exception
) -> None:
    greet, calls = failing(kind, 1, error)
    with pytest.raises(type(error)):
        runner(clients).run(greet, "you")
    assert calls == ["you"]


def test_warnings_of_a_step_are_logged(clients: Clients, caplog: pytest.LogCaptureFixture) -> None:
    greet, _ = failing(Kind.LOCAL, 0, HubUnavailable("no"))
    assert PlainRunner(clients).run(greet, "you") == "hello you"
    assert "it was late" in caplog.text


def test_arguments_are_bound_by_name(clients: Clients) -> None:
    greet, _ = failing(Kind.LOCAL, 0, HubUnavailable("no"))
    assert greet.bind("you") == {"name": "you"}
    assert greet.title.format(**greet.bind("you")) == "greet-you"
    assert greet(clients, "you") == "hello you"
