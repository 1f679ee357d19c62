"""The child process that serves the chat model: run as a script, importing nothing of the package.

It reads its settings from an environment variable as JSON (path, name, api_key, threads), writes
one line of JSON (url or error) to stdout, and serves until stdin closes, which the end of its
parent brings about however that comes.
"""

import json
import os
import signal
import sys

SETTINGS_VARIABLE = "LANGCHAIN_RERANK_LLAMA_SERVER"


def main() -> None:
    """Serve until the parent is gone."""
    # Ctrl-C reaches the whole group of processes, but in a notebook or a REPL the parent goes on.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    import xllamacpp  # type: ignore[import-untyped]  # ships no types

    settings = json.loads(os.environ.pop(SETTINGS_VARIABLE))
    params = xllamacpp.CommonParams()
    params.model.path = settings["path"]
    params.model_alias = {settings["name"]}
    params.api_keys = [settings["api_key"]]
    params.hostnames = ["127.0.0.1"]
    params.verbosity = 0
    params.offline = True
    params.ui = False
    params.endpoint_slots = False
    # The model's own limit; five passages of 900 characters are 1,200 tokens of English.
    params.n_ctx = 8192
    params.n_gpu_layers = 0
    # A second thread adds little to writing a word at a time, and waits by spinning: three times
    # slower where the cores are shared. Reading the prompt does gain.
    params.cpuparams.n_threads = 1
    params.cpuparams_batch.n_threads = settings["threads"]
    params.n_threads_http = 4
    # Reusing a cached prompt changes sums in the last bits, and with them, at times, the answer.
    params.cache_prompt = False
    params.cache_ram_mib = 0
    # Greedy decoding of so small a model falls into loops.
    params.sampling.penalty_repeat = 1.1
    try:
        server = xllamacpp.Server(params)
        reply = {"url": f"{server.listening_address}/v1"}
    except RuntimeError as error:
        reply = {"error": str(error)}
    sys.stdout.write(json.dumps(reply) + "\n")
    sys.stdout.flush()
    sys.stdin.read()
    # The server's destructor waits for ever on an answer that is still being written.
    os._exit(0)


if __name__ == "__main__":
    main()
