"""The child process that serves the chat model: run as a script, importing nothing of the package.

It reads its settings from an environment variable as JSON (path, name, api_key, threads), writes
one line of JSON (url or error) to stdout, and serves until stdin closes, which the end of its
parent brings about however that comes.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any

SETTINGS_VARIABLE = "LANGCHAIN_RERANK_LLAMA_SERVER"

# The model's own limit; five passages of 900 characters are 1,200 tokens of English.
CONTEXT_TOKENS = 8192
# Greedy decoding of so small a model falls into loops.
REPEAT_PENALTY = 1.1
HTTP_THREADS = 4


def server_params(settings: dict[str, Any]) -> Any:
    """Translate the parent's settings into llama.cpp's: quiet, on loopback, without extras."""
    import xllamacpp  # type: ignore[import-untyped]  # ships no types

    params = xllamacpp.CommonParams()
    params.model.path = settings["path"]
    params.model_alias = {settings["name"]}
    params.api_keys = [settings["api_key"]]
    params.hostnames = ["127.0.0.1"]
    params.verbosity = 0
    params.offline = True
    params.ui = False
    params.endpoint_slots = False
    params.n_ctx = CONTEXT_TOKENS
    params.n_gpu_layers = 0
    # A second thread adds little to writing a word at a time, and waits by spinning: three times
    # slower where the cores are shared. Reading the prompt does gain.
    params.cpuparams.n_threads = 1
    params.cpuparams_batch.n_threads = settings["threads"]
    params.n_threads_http = HTTP_THREADS
    # Reusing a cached prompt changes sums in the last bits, and with them, at times, the answer.
    params.cache_prompt = False
    params.cache_ram_mib = 0
    params.sampling.penalty_repeat = REPEAT_PENALTY
    return params


def main() -> None:
    """Serve until the parent is gone."""
    # Ctrl-C reaches the whole group of processes, but in a notebook or a REPL the parent goes on.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    import xllamacpp

    settings = json.loads(os.environ.pop(SETTINGS_VARIABLE))
    try:
        server = xllamacpp.Server(server_params(settings))
    except RuntimeError as error:
        reply = {"error": str(error)}
    else:
        reply = {"url": f"{server.listening_address}/v1"}
    sys.stdout.write(json.dumps(reply) + "\n")
    sys.stdout.flush()
    sys.stdin.read()
    # The server's destructor waits for ever on an answer that is still being written.
    os._exit(0)


if __name__ == "__main__":
    main()
