"""The offline chat model: a real llama.cpp server in a child process."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from pydoc_data.topics import topics

import openai
import psutil
import pytest

from langchain_rerank.offline import offline_chat_model
from tests.support import wait_until

pytestmark = pytest.mark.integration

QUESTION = "What is the capital of France?"


@pytest.fixture(scope="module")
def model():
    return offline_chat_model(max_tokens=32)


@pytest.fixture(scope="module")
def answer(model):
    return model.invoke(QUESTION)


def run(code: str, **environment: str) -> subprocess.CompletedProcess:
    """Run a program with a `model` of its own to its end; a hang is cut off and fails."""
    made = "from langchain_rerank.offline import offline_chat_model\n"
    code = f"{made}model = offline_chat_model(max_tokens=4000)\n{code}"
    return subprocess.run(
        [sys.executable, "-W", "always::ResourceWarning", "-c", code],
        capture_output=True,
        check=False,
        env={**os.environ, **environment},
        text=True,
        timeout=60,
    )


async def test_every_way_to_call_it_gives_the_same_answer_within_the_limit(model, answer):
    assert "Paris" in answer.content
    assert 0 < answer.usage_metadata["output_tokens"] <= 32
    assert answer.response_metadata["model_name"] == "SmolLM2-135M-Instruct"
    assert model.invoke(QUESTION).content == answer.content
    assert (await model.ainvoke(QUESTION)).content == answer.content
    streamed = [chunk.content for chunk in model.stream(QUESTION)]
    for parts in (streamed, [chunk.content async for chunk in model.astream(QUESTION)]):
        assert "".join(parts) == answer.content
        assert sum(bool(part) for part in parts) > 5


def test_one_model_serves_one_event_loop_after_another(model, answer):
    answers = [asyncio.run(model.ainvoke(QUESTION)).content for _ in range(2)]
    assert answers == [answer.content] * 2


def test_keyword_arguments_reach_the_model():
    short = offline_chat_model(max_tokens=3, stop=["zzz"])
    assert short.invoke(QUESTION).usage_metadata["output_tokens"] == 3
    assert (short.stop, short.temperature) == (["zzz"], 0)
    with pytest.raises(TypeError, match="base_url"):
        offline_chat_model(base_url="http://127.0.0.1:1/v1")


def test_models_share_one_server_on_loopback_that_refuses_callers_without_the_key(model):
    address = model.openai_api_base
    assert offline_chat_model().openai_api_base == address
    assert address.startswith("http://127.0.0.1:")
    stranger = openai.OpenAI(base_url=address, api_key="guess", max_retries=0)
    with stranger, pytest.raises(openai.AuthenticationError):
        stranger.chat.completions.create(model="any", messages=[{"role": "user", "content": "Hi"}])


def test_five_long_passages_fit(model):
    text = topics["specialnames"]
    passages = [text[start : start + 900] for start in range(0, 4500, 900)]
    reply = model.invoke("\n\n".join([*passages, "What is an object?"]))
    assert reply.usage_metadata["input_tokens"] > 900
    assert reply.content


def test_environment_can_not_redirect_it_and_it_is_quiet():
    with socket.create_server(("127.0.0.1", 0)) as trap:
        address = f"http://127.0.0.1:{trap.getsockname()[1]}"
        proxies = ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY", "OPENAI_PROXY")
        bases = ("OPENAI_BASE_URL", "OPENAI_API_BASE")
        result = run(
            "import asyncio\n"
            f"print(model.invoke({QUESTION!r}, max_tokens=32).content)\n"
            f"print(asyncio.run(model.ainvoke({QUESTION!r}, max_tokens=32)).content)",
            **dict.fromkeys(proxies, address) | dict.fromkeys(bases, f"{address}/v1"),
            OPENAI_API_KEY="sk-wrong",
        )
        trap.settimeout(0)
        with pytest.raises(BlockingIOError):
            trap.accept()
    assert result.returncode == 0
    assert (result.stdout.count("Paris"), result.stderr) == (2, "")


STREAM = "stream = model.stream('Tell a long story.'); next(stream)\n"


@pytest.mark.parametrize(
    ("busy", "status"),
    [
        (STREAM, 0),
        (STREAM + "Thread(target=model.invoke, args=['Hello'], daemon=True).start()", 0),
        ("atexit.register(os.kill, os.getpid(), signal.SIGKILL)", -9),
    ],
    ids=["open stream", "busy thread", "killed"],
)
def test_the_server_ends_with_its_process_however_busy(busy, status):
    result = run(
        "import atexit, os, psutil, signal\nfrom threading import Thread\n"
        f"{busy}\n"
        "print(*(child.pid for child in psutil.Process().children()), flush=True)"
    )
    assert (result.returncode, result.stderr) == (status, "")
    (server,) = result.stdout.split()
    wait_until(lambda: not psutil.pid_exists(int(server)), "the server's end", timeout=30)


def test_a_server_that_died_is_replaced(answer):
    children = psutil.Process().children()
    (server,) = [child for child in children if "llama_server.py" in " ".join(child.cmdline())]
    server.kill()
    server.wait()
    assert offline_chat_model(max_tokens=32).invoke(QUESTION).content == answer.content
