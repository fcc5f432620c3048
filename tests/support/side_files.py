"""GGUF files that lie beside models in repositories, and are no models themselves; and broken ones."""

from __future__ import annotations

from dataclasses import replace

from tests.support.gguf import ARRAY, F32, STRING, TYPE_F16, U32, Gguf, TensorRow, array, tiny_llama, tiny_shards

LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 673184\n"


def importance_matrix() -> bytes:
    file = Gguf()
    file.set("general.type", STRING, "imatrix")
    file.set("imatrix.datasets", ARRAY, array(STRING, ["calibration.txt"]))
    file.set("imatrix.chunk_count", U32, 1)
    file.tensors += [TensorRow("blk.0.attn_q.weight.in_sum2", (32, 1)), TensorRow("blk.0.attn_q.weight.counts", (1, 1))]
    return file.to_bytes()


def adapter() -> bytes:
    file = Gguf()
    file.set("general.architecture", STRING, "llama")
    file.set("general.type", STRING, "adapter")
    file.set("adapter.type", STRING, "lora")
    file.set("adapter.lora.alpha", F32, 16.0)
    file.tensors += [TensorRow("blk.0.attn_q.weight.lora_a", (32, 8)), TensorRow("blk.0.attn_q.weight.lora_b", (8, 32))]
    return file.to_bytes()


def control_vector() -> bytes:
    file = Gguf()
    file.set("general.architecture", STRING, "controlvector")
    file.set("controlvector.model_hint", STRING, "llama")
    file.tensors.append(TensorRow("direction.1", (32,)))
    return file.to_bytes()


def projector(width: int = 32) -> bytes:
    """A projector for models of an embedding length."""
    file = Gguf()
    file.set("general.architecture", STRING, "clip")
    file.set("general.type", STRING, "mmproj")
    file.set("clip.vision.projection_dim", U32, width)
    file.tensors.append(TensorRow("mm.0.weight", (32, width), TYPE_F16))
    return file.to_bytes()


def vocabulary() -> bytes:
    file = tiny_llama(template=None)
    file.tensors.clear()
    return file.to_bytes()


def draft_head() -> bytes:
    """A draft model of an architecture that the engine does not load by itself."""
    file = tiny_llama(template=None)
    file.keys = [replace(key, name=str(key.name).replace("llama.", "llama-assistant.")) for key in file.keys]
    return file.set("general.architecture", STRING, "llama-assistant").to_bytes()


def joined_shards() -> bytes:
    """Shards that were joined with `cat`, which is no way to join them."""
    return b"".join(shard.to_bytes() for shard in tiny_shards(2, template=None))
