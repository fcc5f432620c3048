"""Run the Prefect servers, the bootstrap and a worker as the compose file does, without containers.

PostgreSQL, Redis and S3 are real ones of this machine. Commands and environment variables are those of the compose file
and of the io worker's image, with other addresses, ports and directories.
"""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from urllib.request import urlopen

import httpx
import pytest

from infra.bootstrap import POOLS
from infra.local.environment import inherited
from infra.local.ports import accepts_connections, free_ports
from infra.local.postgres import Postgres
from infra.local.s3 import find_weed
from infra.local.service import Service, run
from infra.local.state import CHECKOUT
from tests.support.deployed import IMAGES, commands, services
from tests.support.waiting import wait_for

pytestmark = pytest.mark.torture
SERVICES = services()
SECRET = "operator:a secret / with signs"
(IO_WORKER,) = (path for path in IMAGES if path.stem == "io-worker")


class Servers:
    """The running servers, and how the compose file's addresses are written here."""

    def __init__(self, directory: Path, postgres: Postgres, redis: int) -> None:
        self.directory = directory
        self.api, self.health = free_ports(2)
        self._password = postgres.password
        self._replaced = {
            "http://prefect-api:4200": f"http://127.0.0.1:{self.api}",
            "redis://redis:6379": f"redis://127.0.0.1:{redis}",
            "/home/paddock/ui": str(directory / "ui"),
        }
        self._values = {
            "PREFECT_SERVER_DATABASE_HOST": "127.0.0.1",
            "PREFECT_SERVER_DATABASE_PORT": str(postgres.port),
            "PREFECT_SERVER_DATABASE_USER": "paddock",
            "PREFECT_REDIS_MESSAGING_HOST": "127.0.0.1",
            "PREFECT_REDIS_MESSAGING_PORT": str(redis),
        }

    def environment(self, name: str) -> dict[str, str]:
        """The environment of a service, with the addresses of this machine."""
        found = {**inherited(), "PREFECT_HOME": str(self.directory / name), "PYTHONPATH": str(CHECKOUT)}
        for variable, text in SERVICES[name]["environment"].items():
            value = str(text)
            if value.startswith("${POSTGRES_PASSWORD"):
                value = self._password
            elif value.startswith("${PREFECT_API_AUTH_STRING"):
                value = SECRET
            value = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", value)
            for original, here in self._replaced.items():
                value = value.replace(original, here)
            found[variable] = self._values.get(variable, value)
        return found

    def start(self, name: str, command: list[str], environment: Mapping[str, str] | None = None) -> Service:
        """Start a service of the compose file."""
        return Service(
            name,
            self.command(command),
            log=self.directory / f"{name}.log",
            environment=environment or self.environment(name),
            directory=self.directory,
        )

    def command(self, words: list[str]) -> list[str]:
        program = str(Path(sys.executable).with_name(words[0]))
        return [program, *(str(self.api) if word == "4200" else word for word in words[1:])]


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """PostgreSQL, Redis, and Prefect's API and background services, started in the order of the compose file."""
    if shutil.which("redis-server") is None:
        pytest.skip("no redis-server: apt-get install redis-server")
    directory = tmp_path_factory.mktemp("compose")
    with ExitStack() as stack:
        postgres = Postgres.start(directory / "postgres")
        stack.callback(postgres.stop)
        (port,) = free_ports(1)
        redis = stack.enter_context(
            Service(
                "Redis",
                [*SERVICES["redis"]["command"], "--port", str(port), "--bind", "127.0.0.1", "--dir", str(directory)],
                log=directory / "redis.log",
            )
        )
        redis.wait_until(lambda: accepts_connections(port), deadline_s=30)
        servers = Servers(directory, postgres, port)
        run(
            "migrate",
            servers.command(SERVICES["migrate"]["command"]),
            log=directory / "migrate.log",
            environment=servers.environment("migrate"),
        )
        api = stack.enter_context(servers.start("prefect-api", SERVICES["prefect-api"]["command"]))
        check = SERVICES["prefect-api"]["healthcheck"]["test"][-1].replace("4200", str(servers.api))
        api.wait_until(lambda: succeeds(check), deadline_s=120, interval_s=1)
        stack.enter_context(servers.start("prefect-services", SERVICES["prefect-services"]["command"]))
        yield servers


def succeeds(check: str) -> bool:
    """Whether a health check, which is a line of Python, ends without an exception."""
    try:
        exec(check, {})
    except OSError:
        return False
    return True


@pytest.fixture(scope="module")
def api(servers: Servers) -> Iterator[httpx.Client]:
    """A client of Prefect's API, after the bootstrap that the io worker's image can run."""
    image = servers.directory / "image"  # the files that the image copies for it, and nothing else of the checkout
    _, final = IO_WORKER.read_text().split("WORKDIR /opt/paddock\nCOPY prefect.yaml")
    copied = ["prefect.yaml", *re.findall(r"infra/\w+\.py", final)]
    for name in copied:
        (image / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(CHECKOUT / name, image / name)
    run(
        "bootstrap",
        servers.command(SERVICES["bootstrap"]["command"]),
        log=servers.directory / "bootstrap.log",
        environment={**servers.environment("bootstrap"), "PYTHONDONTWRITEBYTECODE": "1"},
        directory=image,
    )
    written = {path.relative_to(image).as_posix() for path in image.rglob("*") if path.is_file()} - {*copied}
    assert written == set()  # its file system is read-only in the container
    name, _, password = SECRET.partition(":")
    with httpx.Client(base_url=f"http://127.0.0.1:{servers.api}/api", auth=(name, password), trust_env=False) as client:
        yield client


def test_the_api_asks_for_the_password_and_serves_the_ui(servers: Servers, api: httpx.Client) -> None:
    assert httpx.get(f"{api.base_url}admin/version", trust_env=False).status_code == 401
    assert api.get("/admin/version").status_code == 200
    with urlopen(f"http://127.0.0.1:{servers.api}/") as page:
        assert b"<div id=" in page.read()
    assert (servers.directory / "ui").is_dir()


def test_the_bootstrap_of_the_image_deploys_everything(api: httpx.Client) -> None:
    pools = api.post("/work_pools/filter", json={}).raise_for_status().json()
    assert {pool["name"] for pool in pools} == set(POOLS)
    deployments = api.post("/deployments/filter", json={}).raise_for_status().json()
    assert len(deployments) == len(re.findall(r"^  - name: ", (CHECKOUT / "prefect.yaml").read_text(), re.MULTILINE))
    assert len(api.post("/automations/filter", json={}).raise_for_status().json()) > 0


def test_the_background_services_schedule_runs(servers: Servers, api: httpx.Client) -> None:
    def are_scheduled() -> bool:
        runs = api.post("/flow_runs/filter", json={}).raise_for_status().json()
        return any(found["state_type"] == "SCHEDULED" and found["auto_scheduled"] for found in runs)

    wait_for(are_scheduled, limit_s=90, every_s=1)
    for name in ("prefect-api", "prefect-services"):
        assert "Traceback" not in (servers.directory / f"{name}.log").read_text()


def test_leases_of_a_concurrency_limit_are_in_redis(servers: Servers, api: httpx.Client) -> None:
    from redis import Redis

    api.post("/v2/concurrency_limits/", json={"name": "one", "limit": 1}).raise_for_status()
    taken = {"names": ["one"], "slots": 1, "mode": "concurrency", "lease_duration": 60}
    lease = api.post("/v2/concurrency_limits/increment-with-lease", json=taken).raise_for_status().json()["lease_id"]
    port = int(servers.environment("prefect-api")["PREFECT_REDIS_MESSAGING_PORT"])
    with Redis(port=port) as redis:
        assert any(lease.encode() in key for key in redis.keys("*"))


def worker_states(api: httpx.Client) -> list[str]:
    workers = api.post("/work_pools/paddock-io/workers/filter", json={}).raise_for_status().json()
    return [worker["status"] for worker in workers]


def test_the_image_starts_a_worker_that_is_healthy(servers: Servers, api: httpx.Client) -> None:
    (command,) = (command for file, command in commands() if file == IO_WORKER.name)
    environment = {**servers.environment("io-worker"), "PREFECT_WORKER_WEBSERVER_PORT": str(servers.health)}
    (check,) = re.findall(r'CMD \["python", "-c", "(.*)"\]', IO_WORKER.read_text())
    check = re.sub(r":\d+/", f":{servers.health}/", check)
    assert not succeeds(check)
    with servers.start("io-worker", command, environment) as worker:
        worker.wait_until(lambda: succeeds(check), deadline_s=60, interval_s=1)
        worker.wait_until(lambda: worker_states(api) == ["ONLINE"], deadline_s=60, interval_s=1)


def test_the_s3_server_is_healthy_and_asks_for_its_keys(tmp_path: Path) -> None:
    from botocore.exceptions import ClientError

    ports = dict(zip(("s3", "master", "volume", "filer", "admin"), free_ports(5), strict=True))
    port = ports["s3"]
    here = {"-dir=/data": f"-dir={tmp_path}", "-ip=s3": "-ip=localhost", "-s3.port=8333": f"-s3.port={port}"}
    program, *options = SERVICES["s3"]["command"]
    others = [f"-{server}.port={number}" for server, number in ports.items() if server != "s3"]
    others += [f"-{server}.port.grpc={number}" for server, number in zip(ports, free_ports(5), strict=True)]
    command = [str(find_weed()), program, *(here.get(option, option) for option in options), *others]
    environment = {**inherited(), "HOME": str(tmp_path), "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": SECRET}
    check = SERVICES["s3"]["healthcheck"]["test"][-1].replace(":8333", f":{port}")
    with Service("S3", command, log=tmp_path / "weed.log", environment=environment, directory=tmp_path) as server:
        server.wait_until(lambda: succeeds(f"__import__('urllib.request').request.urlopen('{check}')"), deadline_s=60)
        server.wait_until(lambda: can_write(port, SECRET), deadline_s=60)
        with pytest.raises(ClientError, match="SignatureDoesNotMatch"):
            can_write(port, "another")


def can_write(port: int, secret: str) -> bool:
    """Whether an object can be written to the bucket of the workers. Raises ClientError for a refused signature."""
    from boto3.session import Session
    from botocore.exceptions import ClientError

    session = Session(aws_access_key_id="key", aws_secret_access_key=secret, region_name="us-east-1")
    client = session.client("s3", endpoint_url=f"http://127.0.0.1:{port}")
    try:
        client.put_object(Bucket="models", Key="written", Body=b"written")
    except ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] == 403:
            raise
        return False
    finally:
        client.close()
    return True
