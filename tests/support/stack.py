"""Real parts for tests, one of each for a whole session. A conftest takes what it needs:

from tests.support.stack import s3 as s3
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from infra.local.s3 import S3Server
from infra.local.service import ServiceError


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A real S3 server with an empty bucket: `endpoint`, `access_key_id`, `secret_access_key`, `bucket`, `client()`."""
    try:
        server = S3Server.start(tmp_path_factory.mktemp("s3"))
    except ServiceError as error:
        if "not there" in str(error):
            pytest.skip(str(error))
        raise
    with server:
        yield server
