"""The offline chat model: a real llama.cpp server in a child process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import textwrap

import pytest

from langchain_rerank.offline import offline_chat_model

pytestmark = pytest.mark.integration

QUESTION = "What is the capital of France?"


@pytest.fixture(scope="module")
def model():
    return offline_chat_model(max_tokens=32)


@pytest.fixture(scope="module")
def answer(model):
    return model.invoke(QUESTION)


def run(code: str, **environment: str) -> subprocess.CompletedProcess:
    """Run a program of its own to its end; a hang is cut off and fails."""
    return subprocess.run(
        [sys.executable, "-W", "always::ResourceWarning", "-c", textwrap.dedent(code)],
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
    model.invoke("Name three colours.")
    assert model.invoke(QUESTION).content == answer.content
    assert (await model.ainvoke(QUESTION)).content == answer.content
    streamed = [chunk.content for chunk in model.stream(QUESTION)]
    for parts in (streamed, [chunk.content async for chunk in model.astream(QUESTION)]):
        assert "".join(parts) == answer.content
        assert sum(bool(part) for part in parts) > 5


def test_one_model_serves_one_event_loop_after_another(model, answer):
    answers = [asyncio.run(model.ainvoke(QUESTION)).content for _ in range(2)]
    assert answers == [answer.content] * 2


def test_keyword_arguments_reach_the_model(model):
    short = offline_chat_model(max_tokens=3, stop=["zzz"])
    assert short.invoke(QUESTION).usage_metadata["output_tokens"] == 3
    assert short.stop == ["zzz"]
    assert short.temperature == 0
    with pytest.raises(TypeError, match="base_url"):
        offline_chat_model(base_url="http://127.0.0.1:1/v1")


def test_models_share_one_server_on_loopback_that_refuses_callers_without_the_key(model):
    import openai

    address = model.openai_api_base
    assert offline_chat_model().openai_api_base == address
    assert address.startswith("http://127.0.0.1:")
    stranger = openai.OpenAI(base_url=address, api_key="guess", max_retries=0)
    with stranger, pytest.raises(openai.AuthenticationError):
        stranger.chat.completions.create(
            model="any", messages=[{"role": "user", "content": "Hello"}]
        )


def test_five_long_passages_fit(model):
    from pydoc_data.topics import topics

    text = topics["specialnames"]
    passages = [text[start : start + 900] for start in range(0, 4500, 900)]
    reply = model.invoke("\n\n".join([*passages, "What is an object?"]))
    assert reply.usage_metadata["input_tokens"] > 900
    assert reply.content


def test_environment_can_not_redirect_it_and_it_is_quiet():
    with socket.create_server(("127.0.0.1", 0)) as trap:
        address = f"http://127.0.0.1:{trap.getsockname()[1]}"
        proxies = ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY", "OPENAI_PROXY")
        result = run(
            f"""
            import asyncio
            from langchain_rerank.offline import offline_chat_model
            model = offline_chat_model(max_tokens=32)
            print(model.invoke({QUESTION!r}).content)
            print(asyncio.run(model.ainvoke({QUESTION!r})).content)
            """,
            **dict.fromkeys(proxies, address),
            OPENAI_API_KEY="sk-wrong",
            OPENAI_BASE_URL=f"{address}/v1",
            OPENAI_API_BASE=f"{address}/v1",
        )
        trap.settimeout(0)
        with pytest.raises(BlockingIOError):
            trap.accept()
    assert result.returncode == 0
    assert result.stdout.count("Paris") == 2
    assert result.stdout.count("\n") == 2
    assert result.stderr == ""


@pytest.mark.parametrize(
    "busy",
    [
        "stream = model.stream('Tell a long story.'); next(stream)",
        (
            "import threading\n"
            "threading.Thread(target=model.invoke, args=['Tell a story.'], daemon=True).start()\n"
            "next(model.stream('Hello'))"
        ),
    ],
    ids=["open stream", "busy thread"],
)
def test_a_process_that_ends_while_an_answer_is_written_ends_cleanly(busy):
    import psutil

    result = run(
        "import psutil\n"
        "from langchain_rerank.offline import offline_chat_model\n"
        "model = offline_chat_model(max_tokens=4000)\n"
        f"{busy}\n"
        "print(*(child.pid for child in psutil.Process().children()))"
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    (server,) = result.stdout.split()
    assert not psutil.pid_exists(int(server))


def test_the_server_ends_with_a_parent_that_is_killed():
    import psutil

    result = run(
        """
        import os, signal, psutil
        from langchain_rerank.offline import offline_chat_model
        offline_chat_model()
        print(*(child.pid for child in psutil.Process().children()), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
        """
    )
    assert result.returncode == -9
    (server,) = result.stdout.split()
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(int(server)).wait(timeout=30)


def test_a_server_that_died_is_replaced(answer):
    import psutil

    children = psutil.Process().children()
    (server,) = [child for child in children if "llama_server.py" in " ".join(child.cmdline())]
    server.kill()
    server.wait()
    assert offline_chat_model(max_tokens=32).invoke(QUESTION).content == answer.content
