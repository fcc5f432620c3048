"""Check images in requests before the engine decodes them.

An image is a `data:` URL, since the engine must fetch nothing. The engine's decoder (stb_image) also reads formats that
no browser sends, and allocates whatever size a header states; so only four formats are accepted, and their size is read
from the header first.
"""

from __future__ import annotations

import base64
import binascii
import re
import struct
from typing import Final

from paddock.serving.requests.fields.base import invalid, unsupported

MAX_PIXELS: Final = 16 * 2**20
MAX_SIDE: Final = 16384
_DATA_URL: Final = re.compile(r"data:image/(?:png|jpe?g|gif|bmp);base64,")
_JPEG_SIZES: Final = frozenset({0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF})
_JPEG_BARE: Final = frozenset({0x01, *range(0xD0, 0xD9)})
"""Markers without a length."""


def check_image_url(url: str) -> str:
    """Return the URL of an image that the engine may decode. Raises PydanticCustomError."""
    start = _DATA_URL.match(url)
    if start is None:
        if re.match(r"(?i)(?:https?|file|ftp):", url):
            raise unsupported("images are not fetched: send the image itself as a data: URL")
        raise invalid("an image has to be a URL of the form data:image/png;base64,… with a PNG, JPEG, GIF or BMP")
    try:
        data = base64.b64decode(url[start.end() :], validate=True)
    except (binascii.Error, ValueError):
        raise invalid("the data of the image is not base64") from None
    size = image_size(data)
    if size is None:
        raise invalid("the data is not a PNG, JPEG, GIF or BMP")
    width, height = size
    if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE and width * height <= MAX_PIXELS):
        raise invalid(f"the image has {width} x {height} pixels, allowed are {MAX_PIXELS}")
    return url


def image_size(data: bytes) -> tuple[int, int] | None:
    """Return (width, height) from the header of a PNG, JPEG, GIF or BMP; None for anything else."""
    try:
        if data.startswith(b"\x89PNG\r\n\x1a\n") and data[12:16] == b"IHDR":
            return struct.unpack_from(">II", data, 16)
        if data.startswith((b"GIF87a", b"GIF89a")):
            return struct.unpack_from("<HH", data, 6)
        if data.startswith(b"BM"):
            width, height = struct.unpack_from("<ii", data, 18)
            return width, abs(height)
        if data.startswith(b"\xff\xd8\xff"):
            return _jpeg_size(data)
    except struct.error:  # the header is cut off
        pass
    return None


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Find the frame header. A JPEG is a sequence of segments: 0xFF, a marker, a length of two bytes, data."""
    position = 2
    while position + 2 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
        elif marker in _JPEG_BARE:
            position += 2
        elif marker in _JPEG_SIZES:
            height, width = struct.unpack_from(">HH", data, position + 5)
            return width, height
        else:
            (length,) = struct.unpack_from(">H", data, position + 2)
            if length < 2:
                return None
            position += 2 + length
    return None
