"""A tiny language model with a tiny projector, and images made by hand.

The projector is of LLaVA's kind: two blocks, of which llama.cpp computes the first, over patches of 8 x 8 pixels, and a
layer that makes each patch a token of the model. Its weights are random and large, so that other pixels give other
tokens.
"""

from __future__ import annotations

import base64
import random
import struct
import zlib
from math import prod

from tests.support import gguf as g
from tests.support.gguf import Gguf, TensorRow, tiny_llama

_WIDTH, _INNER, _SIDE, _PATCH = 32, 64, 32, 8
Colour = tuple[int, int, int]


def vision_llama() -> Gguf:
    """The language model. Its logits differ enough for other tokens to be chosen after another image."""
    file = tiny_llama(kind=g.TYPE_F32)
    for tensor in file.tensors:
        if not str(tensor.name).endswith("norm.weight"):
            tensor.data = _random(str(tensor.name), tensor.shape, 0.5)
    return file


def llava_projector(width: int = 32) -> Gguf:
    """A projector for models of an embedding length."""
    file = Gguf().set("general.architecture", g.STRING, "clip").set("general.type", g.STRING, "mmproj")
    file.set("general.file_type", g.U32, 0)
    file.set("clip.has_vision_encoder", g.BOOL, True).set("clip.projector_type", g.STRING, "mlp")
    file.set("clip.use_gelu", g.BOOL, True)
    for name, value in {
        "image_size": _SIDE,
        "patch_size": _PATCH,
        "embedding_length": _WIDTH,
        "feed_forward_length": _INNER,
        "block_count": 2,
        "attention.head_count": 2,
        "projection_dim": width,
    }.items():
        file.set(f"clip.vision.{name}", g.U32, value)
    file.set("clip.vision.attention.layer_norm_epsilon", g.F32, 1e-5)
    for name in ("image_mean", "image_std"):
        file.set(f"clip.vision.{name}", g.ARRAY, g.array(g.F32, [0.5] * 3))
    patches = (_SIDE // _PATCH) ** 2
    rows = {
        "v.patch_embd.weight": (_PATCH, _PATCH, 3, _WIDTH),
        "v.position_embd.weight": (_WIDTH, patches),
        "mm.0.weight": (_WIDTH, width),
        "mm.0.bias": (width,),
        "mm.2.weight": (width, width),
        "mm.2.bias": (width,),
    }
    for block in range(2):
        at = f"v.blk.{block}."
        rows |= {f"{at}attn_{part}.weight": (_WIDTH, _WIDTH) for part in ("q", "k", "v", "out")}
        rows |= {f"{at}ffn_up.weight": (_WIDTH, _INNER), f"{at}ffn_down.weight": (_INNER, _WIDTH)}
        for norm in ("ln1", "ln2"):
            rows |= {f"{at}{norm}.weight": (_WIDTH,), f"{at}{norm}.bias": (_WIDTH,)}
    file.tensors += [TensorRow(name, shape, data=_random(name, shape, 0.5)) for name, shape in rows.items()]
    return file


def png(*colours: Colour, side: int = 32) -> bytes:
    """A square image with a vertical stripe of each colour."""
    row = b"\0" + b"".join(bytes(colours[x * len(colours) // side]) for x in range(side))
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)  # 8 bits for each of red, green and blue
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in ((b"IHDR", header), (b"IDAT", zlib.compress(row * side)), (b"IEND", b""))
    )


def data_url(image: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(image).decode()}"


def _random(name: str, shape: tuple[int, ...], limit: float) -> bytes:
    draw = random.Random(name)
    return struct.pack(f"<{prod(shape)}f", *(draw.uniform(-limit, limit) for _ in range(prod(shape))))
