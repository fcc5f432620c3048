"""Upload to S3 with a sha256 checksum header, or without it where the server refuses such headers.

With the checksum, the server refuses bytes that were damaged in transit. Some servers that are not Amazon's answer
such a request with 400 or 501. What is fetched is verified by its sha256 anyway, so it is then sent without.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, TypeVar

from botocore import exceptions as aws

from paddock.store.s3.errors import may_refuse_a_header

log = logging.getLogger(__name__)
Answer = TypeVar("Answer")


class Checksums:
    """Whether the server of one bucket accepts checksum headers: so assumed until it refused a request with them, and
    accepted the same one without. Safe to use from several threads."""

    def __init__(self, label: str) -> None:
        self._label = label
        self.are_accepted = True

    def send(self, request: Callable[..., Answer], **checksum: Any) -> Answer:
        """Call `request` with the parameters of the checksum, or without them where the server refuses them."""
        if self.are_accepted:
            try:
                return request(**checksum)
            except aws.ClientError as error:
                if not may_refuse_a_header(error):
                    raise
        answer = request()
        if self.are_accepted:
            self.are_accepted = False
            log.warning(
                "%s refuses checksum headers: blobs are sent without them, and verified when they are fetched",
                self._label,
            )
        return answer
