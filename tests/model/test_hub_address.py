"""Addresses of the Hub as people copy them, and files of a model."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paddock.errors import UnsafeName
from paddock.model.reference import Reference, parse_requested

ENDPOINT = "http://127.0.0.1:9000/mirror"
COMMIT = "0123456789abcdef" * 2 + "01234567"


@pytest.mark.parametrize(
    ("text", "model", "file"),
    [
        ("https://huggingface.co/org/name", "org/name", None),
        ("https://huggingface.co/org/name/", "org/name", None),
        ("http://www.huggingface.co/org/name?library=gguf#usage", "org/name", None),
        (" https://hf.co/org/name\n", "org/name", None),
        ("HuggingFace.co/org/name", "org/name", None),
        ("huggingface.co/gpt2", "gpt2", None),
        ("https://huggingface.co/org/name.git", "org/name", None),
        ("https://huggingface.co/org/name/tree", "org/name", None),
        ("https://huggingface.co/org/name/tree/main/", "org/name", None),
        ("https://huggingface.co/org/name/tree/v1.0", "org/name@v1.0", None),
        (f"https://huggingface.co/org/name/commit/{COMMIT}", f"org/name@{COMMIT}", None),
        ("https://huggingface.co/org/name/tree/refs%2Fpr%2F3", "org/name@refs/pr/3", None),
        ("https://huggingface.co/org/name/discussions/5", "org/name", None),
        ("https://huggingface.co/api/models/org/name/revision/v2", "org/name@v2", None),
        ("https://huggingface.co/org/name/blob/main/m-Q8_0.gguf", "org/name", "m-Q8_0.gguf"),
        ("huggingface.co/org/name/blob/main/dir/m-Q8_0.GGUF", "org/name", "dir/m-Q8_0.GGUF"),
        (f"https://hf.co/org/name/resolve/{COMMIT}/a%20b.gguf?download=true", f"org/name@{COMMIT}", "a b.gguf"),
        ("https://huggingface.co/org/name/blob/refs/pr/3/dir/m.gguf", "org/name@refs/pr/3", "dir/m.gguf"),
        ("https://huggingface.co/gpt2/blob/main/m.gguf", "gpt2", "m.gguf"),
        ("https://huggingface.co/org/name?show_file_info=dir%2Fm.gguf", "org/name", "dir/m.gguf"),
        ("hf.co/org/name:Q4_K_M", "org/name:Q4_K_M", None),
        ("https://hf.co/org/name:Q4_K_M@v1", "org/name:Q4_K_M@v1", None),
        ("hf.co/org/name@v1:dir/m.gguf", "org/name@v1", "dir/m.gguf"),
        ("hf://org/name", "org/name", None),
        ("hf://models/org/name@v1", "org/name@v1", None),
        ("hf://org/name@v1/dir/m.gguf", "org/name@v1", "dir/m.gguf"),
        ("hf://org/name/tree/m.gguf", "org/name", "tree/m.gguf"),
        (f"{ENDPOINT}/org/name/tree/v1", "org/name@v1", None),
        ("127.0.0.1:9000/mirror/org/name", "org/name", None),
        ("http://127.0.0.1:9000/org/name", "org/name", None),
        ("org/name:dir/m.gguf", "org/name", "dir/m.gguf"),
        ("org/name@v1:m.gguf", "org/name@v1", "m.gguf"),
        ("org/name:m.gguf@v1", "org/name@v1", "m.gguf"),
        (f"org/name@{COMMIT}:m@home: 2.gguf", f"org/name@{COMMIT}", "m@home: 2.gguf"),
        ("org/name:Q8_0@v1", "org/name:Q8_0@v1", None),
    ],
)
def test_an_address_names_a_model_or_one_of_its_files(text: str, model: str, file: str | None) -> None:
    requested = parse_requested(text, ENDPOINT)
    assert (str(requested.reference), requested.file) == (model, file)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("https://example.com/org/name", "is not an address of the Hub, 127.0.0.1:9000"),
        ("example.com/org/name/tree/main", "is not an address of the Hub"),
        ("https://huggingface.co.example.com/org/name", "is not an address of the Hub"),
        ("ftp://huggingface.co/org/name", "is not an address of the Hub"),
        ("https://", "is not an address of the Hub"),
        ("see https://huggingface.co/org/name", "is not an address of the Hub"),
        ("org/name\nhttps://huggingface.co", "is not an address of the Hub"),
        ("://", "is not an address of the Hub"),
        ("https://huggingface.co/", "names no model"),
        ("https://huggingface.co/models?search=tiny", "names no model"),
        ("hf://", "names no model"),
        ("https://huggingface.co/datasets/org/name", "is a dataset and not a model"),
        ("hf://datasets/org/name/x.gguf", "is a dataset and not a model"),
        ("https://huggingface.co/spaces/org/name", "is a space and not a model"),
        ("https://huggingface.co/org/name/elsewhere", "has 'elsewhere' after the model's name: write org/name"),
        ("https://huggingface.co/org/name/tree/main/Q8_0", "paddock pull org/name --file 'Q8_0/*'"),
        ("https://huggingface.co/org/name/blob/v1/README.md", "'README.md' of org/name@v1 is not a GGUF file"),
        ("https://huggingface.co/org/name/tree/..", "the revision '..' is not a branch"),
        ("https://huggingface.co/org/na%00me", "is not safe"),
        ("https://huggingface.co/..%2F..%2Fetc/passwd", "has more than one '/'"),
        ("org/name@v1:m.gguf@v2", "two revisions"),
        ("https://hf.co/org/name:Q8_0/tree/v2", "is not safe"),
        ("C:\\models\\m.gguf", "is not safe"),
    ],
    ids=ascii,
)
def test_an_address_of_something_else_is_refused_with_a_sentence(text: str, words: str) -> None:
    with pytest.raises(UnsafeName) as caught:
        parse_requested(text, ENDPOINT)
    assert words in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "text", ["https://user:hunter2@huggingface.co/org/name", "https://cdn.example.com/m.gguf?Signature=hunter2"]
)
def test_a_secret_in_an_address_is_not_repeated(text: str) -> None:
    with pytest.raises(UnsafeName) as caught:
        parse_requested(text)
    assert "hunter2" not in str(caught.value)


def test_a_function_that_takes_names_alone_says_what_to_write() -> None:
    with pytest.raises(UnsafeName) as caught:
        Reference.parse("https://huggingface.co/org/name/tree/v1")
    assert caught.value.cure == "write org/name@v1"


@given(st.text(st.sampled_from("hf:/.co@organme%2?#-Q8_0gu \\\0"), max_size=40).map("https://huggingface.co/{}".format))
def test_any_address_is_read_or_refused(text: str) -> None:
    try:
        requested = parse_requested(text)
    except UnsafeName:
        return
    assert parse_requested(str(requested.reference)).reference == requested.reference
