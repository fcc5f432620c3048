from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from paddock import setup_chat_template
from paddock.chat.families import family_of
from paddock.chat.render import render_messages
from paddock.chat.template import ChatFormat, choose_chat_format, is_published
from paddock.errors import MalformedGguf, NoPermission, NoSuchFile, NotGguf
from tests.support.gguf import ARRAY, STRING, array, tiny_llama
from tests.support.hostile_templates import HOSTILE
from tests.support.templates import CHATML, NOTED

NAME = "mistralai/Mistral-7B"
FAMILY = family_of(NAME).source
OWN = CHATML + "{# mine #}"
BAD = HOSTILE["lipsum"][0]


def config(directory: Path, **values: object) -> None:
    (directory / "tokenizer_config.json").write_text(json.dumps(values))


def test_a_model_without_a_template_gets_the_template_of_its_family(tmp_path: Path) -> None:
    assert setup_chat_template(tmp_path, NAME) == FAMILY
    assert (tmp_path / "chat_template.jinja").read_text() == FAMILY
    assert setup_chat_template(tmp_path, NAME) == FAMILY, "the same result the second time"


def test_the_gguf_has_precedence_over_the_file_and_the_file_over_the_configuration(tmp_path: Path) -> None:
    config(tmp_path, chat_template=CHATML + "{# config #}")
    assert setup_chat_template(tmp_path, NAME).endswith("{# config #}")
    (tmp_path / "chat_template.jinja").write_text(CHATML + "{# file #}")
    assert setup_chat_template(tmp_path, NAME).endswith("{# file #}")
    tiny_llama(template=CHATML + "{# gguf #}").write(tmp_path / "m.Q8_0.gguf")
    assert setup_chat_template(tmp_path, NAME).endswith("{# gguf #}")


def test_the_default_template_of_a_configuration_with_several_is_used(tmp_path: Path) -> None:
    named = [{"name": "tool_use", "template": BAD}, {"name": "default", "template": OWN}, 7]
    config(tmp_path, chat_template=named, bos_token={"content": "<b>"}, eos_token="<e>")
    assert setup_chat_template(tmp_path, NAME) == OWN
    other = tmp_path / "other"
    other.mkdir()
    config(other, chat_template=named[:1])
    assert setup_chat_template(other, NAME) == FAMILY


def test_a_hostile_template_is_skipped_for_the_next_sound_one(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_text(BAD)
    config(tmp_path, chat_template=OWN)
    assert setup_chat_template(tmp_path, NAME) == OWN
    assert (tmp_path / "chat_template.jinja").read_text() == OWN


def test_the_special_tokens_come_from_the_file_with_the_template(tmp_path: Path) -> None:
    needs = "{% if eos_token != '<e>' %}{{ raise_exception('no') }}{% endif %}" + CHATML
    config(tmp_path, chat_template=needs, eos_token="<e>")
    assert setup_chat_template(tmp_path, NAME) == needs
    other = tmp_path / "other"
    needs = needs.replace("'<e>'", "'</s>'")
    tiny_llama(template=needs).write(other / "m.gguf")
    assert setup_chat_template(other, NAME) == needs


def _without_begin_token(kind: str, directory: Path) -> None:
    file = tiny_llama(template=None).drop("tokenizer.ggml.bos_token_id").set("tokenizer.ggml.model", STRING, kind)
    file.set("tokenizer.ggml.merges", ARRAY, array(STRING, ["a b"])).write(directory / "m.gguf")


@pytest.mark.parametrize(("kind", "bos"), [("gpt2", ""), ("llama", "<s>")])
def test_a_model_without_a_begin_token_gets_none_but_the_engines_default(tmp_path: Path, kind: str, bos: str) -> None:
    _without_begin_token(kind, tmp_path)
    config(tmp_path, bos_token="<made-up>")
    chat = choose_chat_format(tmp_path, NAME)
    assert (chat.origin, chat.bos, chat.eos) == ("family", bos, "</s>")
    question: list[dict[str, object]] = [{"role": "user", "content": "Hello."}]
    assert render_messages(chat.template, question, bos=chat.bos, eos=chat.eos) == f"{bos}[INST] Hello. [/INST]"


@pytest.mark.parametrize("published", ["manifest", "path", "link"])
def test_a_published_snapshot_is_only_read(tmp_path: Path, published: str) -> None:
    snapshot = tmp_path / ".paddock" / "snapshots" / "org--name" / ("0" * 40)
    if published == "manifest":
        snapshot = tmp_path / "somewhere"
    snapshot.mkdir(parents=True)
    if published == "manifest":
        (snapshot / "manifest.json").write_text("{}")
    path = snapshot
    if published == "link":
        path = tmp_path / "org--name"
        path.symlink_to(os.path.relpath(snapshot, tmp_path))
    before = sorted(snapshot.iterdir())
    assert is_published(path)
    assert setup_chat_template(path, NAME) == FAMILY
    assert sorted(snapshot.iterdir()) == before


def test_an_unchanged_template_is_not_written_again(tmp_path: Path) -> None:
    setup_chat_template(tmp_path, NAME)
    before = (tmp_path / "chat_template.jinja").stat()
    setup_chat_template(tmp_path, NAME)
    after = (tmp_path / "chat_template.jinja").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_write_leaves_no_temporary_file_and_does_not_follow_a_link(tmp_path: Path) -> None:
    outside = tmp_path / "outside.txt"
    outside.write_text("keep me")
    model = tmp_path / "model"
    model.mkdir()
    (model / "chat_template.jinja").symlink_to(outside)
    setup_chat_template(model, NAME)
    assert outside.read_text() == "keep me"
    assert [path.name for path in model.iterdir()] == ["chat_template.jinja"]
    assert not (model / "chat_template.jinja").is_symlink()


def test_the_error_for_a_missing_directory_has_its_path(tmp_path: Path) -> None:
    with pytest.raises(NoSuchFile, match="nowhere"):
        setup_chat_template(tmp_path / "nowhere", NAME)


@pytest.mark.parametrize("text", ["{", "[]", "\ufeff{]", "[" * 100_000])
def test_an_invalid_configuration_is_ignored_with_a_warning_that_has_its_path(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    (tmp_path / "tokenizer_config.json").write_text(text)
    assert setup_chat_template(tmp_path, NAME) == FAMILY
    (warning,) = caplog.messages
    assert warning.startswith(f"{tmp_path / 'tokenizer_config.json'} is ignored: ")


def test_a_template_that_is_not_a_file_raises_an_error_with_its_path(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").mkdir()
    with pytest.raises(NoSuchFile, match=r"chat_template\.jinja"):
        setup_chat_template(tmp_path, NAME)


@pytest.mark.parametrize(("data", "error"), [(b"<html>", NotGguf), (b"GGUF\x03\0\0\0\xff", MalformedGguf)])
def test_a_broken_gguf_raises_an_error(tmp_path: Path, data: bytes, error: type[Exception]) -> None:
    (tmp_path / "m.gguf").write_bytes(data)
    with pytest.raises(error):
        setup_chat_template(tmp_path, NAME)


@pytest.mark.skipif(os.geteuid() == 0, reason="root can write everywhere; run as another user")
def test_the_error_for_a_read_only_directory_has_its_path(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    with pytest.raises(NoPermission, match="no permission to write"):
        setup_chat_template(tmp_path, NAME)


def test_a_template_that_is_not_utf8_is_skipped(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff\xfe{{ \x00")
    assert setup_chat_template(tmp_path, NAME) == FAMILY


def test_an_oversized_template_file_is_skipped(tmp_path: Path) -> None:
    with (tmp_path / "chat_template.jinja").open("wb") as file:
        file.truncate(1 << 40)
    assert setup_chat_template(tmp_path, NAME) == FAMILY


def test_a_chat_format_has_the_origin_of_its_template_and_the_rejected_ones(tmp_path: Path) -> None:
    config(tmp_path, chat_template=BAD, eos_token="<e>")
    chat = choose_chat_format(tmp_path, NAME)
    assert (chat.template, chat.origin, chat.eos) == (FAMILY, "family", "<e>")
    assert chat.why == "its name says mistral; that of tokenizer_config.json is passed over for template.name"
    config(tmp_path, chat_template=OWN)
    own = choose_chat_format(tmp_path, NAME)
    assert (own.template, own.origin, own.why) == (OWN, "tokenizer_config.json", "the model brings it")
    assert own == ChatFormat.from_json(own.to_json(), OWN)


def test_a_template_that_renders_only_with_tools_is_skipped(tmp_path: Path) -> None:
    config(tmp_path, chat_template=NOTED["tools only"][0])
    assert choose_chat_format(tmp_path, NAME).origin == "family"
