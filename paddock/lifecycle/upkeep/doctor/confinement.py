"""Check of what the engine's processes are kept from: files, network, other processes and privileges."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from paddock.confinement.policy import Confinement
from paddock.engine.facts import describe_confinement
from paddock.errors import PaddockError
from paddock.lifecycle.clients import Clients
from paddock.lifecycle.upkeep.doctor.check import CheckResult, failure
from paddock.serving.engine.llama_server import LlamaServerProgram, find_program

_NAME: Final = "confinement"
_FILES_CURE: Final = (
    "use Linux 5.13 or later with `landlock` in its boot parameter `lsm`, and a container runtime that permits"
    " Landlock's calls"
)
_CALLS_CURE: Final = "use a container runtime that permits seccomp, on x86-64 or arm64"
_USER_CURE: Final = (
    "run Paddock as a user without privileges, or give root the capabilities CHOWN, KILL, SETGID and SETUID so that its"
    " children can become one"
)
_PLACE_CURE: Final = (
    "let every user read the directories of the engine and of its drivers, or name them in PADDOCK_ENGINE_READS"
)


def check_confinement(clients: Clients) -> Sequence[CheckResult]:
    """Engine processes cannot reach other files, processes or the network, and llama-server starts like that."""
    try:
        results = confinement_results(describe_confinement())
        program = find_program(clients.settings.llama_server)
    except PaddockError as error:
        return [failure(_NAME, error, needed=False)]
    return [*results, *_server_results(program)]


def confinement_results(found: Confinement) -> list[CheckResult]:
    """Return a result for each protection that is missing, or one that names all."""
    missing = []
    if not found.landlock:
        reach = f"all files that user {found.user} may read"
        missing.append(("files", f"the kernel has no Landlock for it: the engine can reach {reach}", _FILES_CURE))
    if not found.seccomp:
        rest = "" if found.namespaces else ", and the network"
        message = f"its system calls are not filtered: the engine can reach sockets of this machine{rest}"
        missing.append(("system calls", message, _CALLS_CURE))
    if found.user == 0:
        missing.append(("user", "the engine runs as root, without capabilities", _USER_CURE))
    if missing:
        return [CheckResult(f"{_NAME}: {name}", False, text, cure, needed=False) for name, text, cure in missing]
    message = (
        f"the engine runs as user {found.user} without capabilities, reads the model and its libraries alone (Landlock"
        f" {found.landlock}), and has no network"
    )
    return [CheckResult(_NAME, True, message)]


def _server_results(program: LlamaServerProgram) -> list[CheckResult]:
    if program.version == "unknown" or program.confined_version() == program.version:
        return []  # that it does not start at all is the result of another check
    message = f"{program.path} starts, but not when it is confined: something that it loads is out of its reach"
    return [CheckResult(f"{_NAME}: llama-server", False, message, _PLACE_CURE)]
