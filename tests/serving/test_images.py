"""Images in requests: only `data:` URLs of four formats, with the size that their headers state."""

from __future__ import annotations

import base64
import json
import struct
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from paddock.serving.requests.fields.images import image_size
from paddock.serving.requests.parse import RequestRefused, parse
from tests.serving.test_requests import SPEC

VISION = replace(SPEC, projector=Path("/nowhere-mmproj.gguf"))


def png(width: int, height: int) -> bytes:
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))


def jpeg(width: int, height: int, *, marker: int = 0xC0) -> bytes:
    app = b"\xff\xe0" + struct.pack(">H", 16) + b"JFIF" + bytes(10)
    frame = b"\xff\xff" + bytes([marker]) + struct.pack(">HBHHB", 17, 8, height, width, 3) + bytes(9)
    return b"\xff\xd8" + app + frame


def gif(width: int, height: int) -> bytes:
    return b"GIF89a" + struct.pack("<HH", width, height) + bytes(3)


def bmp(width: int, height: int) -> bytes:
    return b"BM" + struct.pack("<IHHIIii", 54, 0, 0, 54, 40, width, height) + bytes(28)


def data_url(data: bytes, kind: str = "png") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def sent(url: Any, **more: Any) -> Any:
    content = [{"type": "text", "text": "What is it?"}, {"type": "image_url", "image_url": {"url": url, **more}}]
    body = {"messages": [{"role": "user", "content": content}]}
    return parse("/v1/chat/completions", json.dumps(body).encode(), VISION).body["messages"][0]["content"]


@pytest.mark.parametrize("make", [png, jpeg, gif, bmp])
def test_the_size_of_an_image_is_in_its_header(make: Any) -> None:
    assert image_size(make(640, 480)) == (640, 480)
    for length in range(len(make(640, 480))):
        image_size(make(640, 480)[:length])  # a header that is cut off is never an error


def test_a_progressive_jpeg_and_a_bitmap_from_top_to_bottom_have_a_size() -> None:
    assert image_size(jpeg(640, 480, marker=0xC2)) == (640, 480)
    assert image_size(bmp(640, -480)) == (640, 480)


def test_an_image_goes_to_the_engine_as_it_is() -> None:
    url = data_url(png(8, 8))
    assert sent(url, detail="high") == [
        {"type": "text", "text": "What is it?"},
        {"type": "image_url", "image_url": {"url": url}},
    ]


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("https://example.org/a.png", "unsupported_parameter"),
        ("HTTP://example.org/a.png", "unsupported_parameter"),
        ("file:///etc/passwd", "unsupported_parameter"),
        ("data:image/svg+xml;base64,PHN2Zz4=", "invalid_value"),
        ("data:image/png,abc", "invalid_value"),
        (base64.b64encode(png(8, 8)).decode(), "invalid_value"),
        (data_url(png(8, 8)) + ",more", "invalid_value"),
        ("data:image/png;base64,é", "invalid_value"),
        (data_url(b""), "invalid_value"),
        (data_url(b"RIFF\x00\x00\x00\x00WAVEfmt "), "invalid_value"),
        (data_url(b"RIFF\x00\x00\x00\x00WEBPVP8 "), "invalid_value"),
        (data_url(png(100_000, 100_000)), "invalid_value"),
        (data_url(png(8192, 8192)), "invalid_value"),
        (data_url(png(0, 5)), "invalid_value"),
        (data_url(bmp(-5, 5)), "invalid_value"),
        (5, "invalid_value"),
        (None, "invalid_value"),
    ],
)
def test_any_other_image_is_refused_by_name(url: Any, code: str) -> None:
    with pytest.raises(RequestRefused) as refused:
        sent(url)
    assert (refused.value.status, refused.value.code) == (400, code)
    assert (refused.value.param or "").startswith("messages.0.content.1.image_url.url")


def test_a_model_without_a_projector_takes_no_images() -> None:
    body = {
        "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": data_url(png(8, 8))}}]}]
    }
    with pytest.raises(RequestRefused, match="no projector") as refused:
        parse("/v1/chat/completions", json.dumps(body).encode(), SPEC)
    assert (refused.value.code, refused.value.param) == ("unsupported_parameter", "messages.0.content.0.type")


@pytest.mark.parametrize(("text", "is_refused"), [("", True), (" \n", True), ("What is it?", False)])
def test_a_prompt_that_would_end_with_an_image_is_refused(text: str, is_refused: bool) -> None:
    """llama-server aborts on it."""
    content = [{"type": "image_url", "image_url": {"url": data_url(png(8, 8))}}, {"type": "text", "text": text}]
    body = {"messages": [{"role": "user", "content": content}], "add_generation_prompt": False}
    if not is_refused:
        parse("/v1/chat/completions", json.dumps(body).encode(), VISION)
        return
    with pytest.raises(RequestRefused) as refused:
        parse("/v1/chat/completions", json.dumps(body).encode(), VISION)
    assert refused.value.param == "add_generation_prompt"
