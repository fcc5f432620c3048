"""Run llama-cpp-python's server in the engine's own process, with extensions.


- the engine's parameters are exactly the plan's, including those that it has no setting for
- the chat template is the snapshot's, rendered in the environment that it was audited in
- `interrupt_requests` is off: by default a new request interrupts the one that is being answered
- a request whose client has disconnected ends, streamed or not
- a stream ends with a chunk of token usage, and an error in it is an event rather than a broken connection
- `/health` reports how long the engine has made no progress on a request

It listens on a UNIX socket in a directory that only our user can enter, and answers one request at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import uvicorn
from fastapi import HTTPException
from llama_cpp import _internals as internals
from llama_cpp.llama_chat_format import ChatFormatterResponse, chat_formatter_to_chat_completion_handler
from llama_cpp.server import app as server
from llama_cpp.server.model import LlamaProxy
from llama_cpp.server.settings import ModelSettings, ServerSettings

from paddock.chat.sandbox import date_variables, make_environment
from paddock.engine import bindings
from paddock.engine.canary import canary
from paddock.engine.parameters import Parameters
from paddock.serving.disconnect import DisconnectMiddleware, Heartbeat, client_left

Chunk = dict[str, Any]


def serve(request: dict[str, Any]) -> None:
    """Load the model, run the canary, and serve it until SIGTERM. Raises IncompatibleModel, MalformedGguf,
    EngineOutOfMemory, ModelRejected."""
    parameters = Parameters.from_json(request["parameters"])
    heartbeat = Heartbeat()
    model = load(request["model"], parameters, heartbeat, template=request["template"], bos=request["bos"])
    canary(_CanaryModel(model))

    class Proxy(LlamaProxy):  # type: ignore[misc] # llama_cpp has no types
        @staticmethod
        def load_llama_from_model_settings(_settings: ModelSettings) -> llama_cpp.Llama:
            return model

    server.LlamaProxy = Proxy
    settings = ModelSettings(model=request["model"], model_alias=request["name"])
    app = server.create_app(server_settings=ServerSettings(interrupt_requests=False), model_settings=[settings])
    socket = str(Path(request["home"], request["socket"]))
    config = uvicorn.Config(
        DisconnectMiddleware(app, heartbeat), uds=socket, log_level="warning", access_log=False, lifespan="off"
    )
    uvicorn.Server(config).run()


class Model(llama_cpp.Llama):  # type: ignore[misc] # llama_cpp has no types
    """A model that reports its steps, ends requests without a client, and ends each stream with its token usage."""

    _sampler: Any
    heartbeat: Heartbeat
    prompt_tokens = 0
    completion_tokens = 0

    def eval(self, tokens: Sequence[int]) -> None:
        super().eval(tokens)
        self.heartbeat.step_done()

    def generate(self, tokens: Sequence[int], **kwargs: Any) -> Generator[int, Sequence[int] | None, None]:
        self.prompt_tokens, self.completion_tokens = len(tokens), 0
        try:
            for token in super().generate(tokens, **kwargs):
                if not llama_cpp.llama_vocab_is_eog(self._model.vocab, token):
                    self.completion_tokens += 1
                yield token
        finally:
            # It stands in a cycle of references, and holds native memory until Python looks for cycles: megabytes.
            self._sampler.close()
            self._sampler = None

    def create_completion(self, prompt: str | list[int], *, stream: bool = False, **kwargs: Any) -> Any:
        left = client_left.get()
        if left is not None:
            kwargs["stopping_criteria"] = llama_cpp.StoppingCriteriaList([lambda _tokens, _logits: left.is_set()])
        answer = super().create_completion(prompt, stream=stream, **kwargs)
        is_chat = not isinstance(prompt, str)  # then `handler` sees to it, behind the conversion
        return answer if is_chat or not stream else self.with_usage(answer)

    def with_usage(self, chunks: Iterator[Chunk]) -> Iterator[Chunk]:
        """Yield the chunks of an answer, then one with its token usage or an error event."""
        last: Chunk = {}
        try:
            for chunk in chunks:
                last = chunk
                yield chunk
        except (ValueError, RuntimeError) as error:  # the second one is what a failed `llama_decode` becomes
            yield _as_event(error)
            return
        yield {**last, "choices": [], "usage": self.usage()}

    def usage(self) -> dict[str, int]:
        prompt, completion = self.prompt_tokens, self.completion_tokens
        return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def load(path: str, parameters: Parameters, heartbeat: Heartbeat, *, template: str, bos: str) -> Model:
    """Raises as `bindings.Log.refusal`."""
    log = bindings.Log()
    loading = "the file"

    class Weights(internals.LlamaModel):  # type: ignore[misc] # llama_cpp has no types
        def __init__(self, *, params: Any, **kwargs: Any) -> None:
            params.use_extra_bufts = parameters.use_extra_bufts
            super().__init__(params=params, **kwargs)

        def metadata(self) -> dict[str, str]:
            """Without the GGUF's own templates: `Llama` compiles each, also those that the audit has rejected."""
            every = super().metadata()
            return {key: value for key, value in every.items() if not key.startswith("tokenizer.chat_template")}

    class Context(internals.LlamaContext):  # type: ignore[misc] # llama_cpp has no types
        def __init__(self, *, params: Any, **kwargs: Any) -> None:
            nonlocal loading
            loading = "a context for the file"
            bindings.set_context_params(params, parameters)
            super().__init__(params=params, **kwargs)

    # `Llama` fills in the library's own structures, and leaves no way to what it has no argument for.
    internals.LlamaModel, internals.LlamaContext = Weights, Context
    try:
        model = Model(
            path,
            n_gpu_layers=parameters.n_gpu_layers,
            tensor_split=list(parameters.tensor_split) or None,
            use_mmap=parameters.use_mmap,
            use_mlock=parameters.use_mlock,
            n_ctx=parameters.n_ctx,
            n_batch=min(parameters.n_batch, parameters.n_ctx),
            n_ubatch=parameters.n_ubatch,
            n_threads=parameters.n_threads,
            n_threads_batch=parameters.n_threads_batch or parameters.n_threads,
            chat_handler=_handler(template, bos=bos),
            verbose=False,
        )
    except ValueError:
        raise log.refusal(loading) from None
    model.heartbeat = heartbeat
    return model


def _handler(template: str, *, bos: str) -> Callable[..., Any]:
    """Answers chats with the template. A conversation that it refuses is the client's affair: 400."""
    compiled = make_environment().from_string(template)

    def prompt_of(*, messages: list[Chunk], tools: list[Chunk] | None = None, **options: Any) -> ChatFormatterResponse:
        from datetime import datetime

        context = {
            "messages": messages,
            "tools": tools,
            "functions": options.get("functions"),
            "function_call": options.get("function_call"),
            "tool_choice": options.get("tool_choice"),
            "add_generation_prompt": True,
            "bos_token": bos,
            "eos_token": options["eos"],
        }
        try:
            prompt = compiled.render(context, **date_variables(datetime.now()))  # noqa: DTZ005 templates use local time
        except Exception as error:  # a stranger's program: whatever it raises is its own fault
            raise _Unrendered(f"the chat template does not take this conversation: {error}") from None
        return ChatFormatterResponse(prompt=prompt, stop=[], added_special=bool(bos) and prompt.startswith(bos))

    def handler(*, llama: Model, stream: bool = False, **kwargs: Any) -> Any:
        eos = llama._model.token_get_text(llama.token_eos()) if llama.token_eos() >= 0 else ""
        answer = chat_formatter_to_chat_completion_handler(lambda **options: prompt_of(eos=eos, **options))
        try:
            result = answer(llama=llama, stream=stream, **kwargs)
        except (_Unrendered, ValueError) as error:
            if stream:
                return iter([_as_event(error)])
            if isinstance(error, _Unrendered):
                raise HTTPException(400, str(error)) from None
            raise
        return llama.with_usage(result) if stream else result

    return handler


class _Unrendered(Exception):
    pass


def _as_event(error: Exception) -> Chunk:
    code = "context_length_exceeded" if "exceed context window" in str(error) else None
    status = 500 if isinstance(error, RuntimeError) else 400
    return {"error": {"message": str(error), "code": code, "status": status}}


class _CanaryModel:
    """Adapter of a `Model` to `canary.LoadedModel`."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self.bos: int = model.token_bos()

    def clear(self) -> None:
        self._model.reset()

    def decode(self, tokens: Sequence[int]) -> None:
        self._model.eval(tokens)

    def logits(self) -> np.ndarray[Any, np.dtype[np.float32]]:
        pointer = self._model._ctx.get_logits()
        if not pointer:
            return np.empty(0, dtype=np.float32)
        return np.ctypeslib.as_array(pointer, shape=(self._model.n_vocab(),))
