"""The service on a real local Ray: scores, scaling, a killed replica, overload, the config file."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib import resources
from typing import Any

import httpx
import psutil
import pytest
import yaml

from langchain_rerank import ModelLoadError, RemoteCrossEncoder, TorchCrossEncoder
from langchain_rerank.ray_session import connected
from langchain_rerank.server import ray_proxy
from langchain_rerank.server.ray_serve import DEPLOYMENT, build_app, deployed, scaled, serve_on_ray
from tests.fakes import WordOverlapCrossEncoder
from tests.support import free_port, wait_until

pytestmark = [
    pytest.mark.integration,
    pytest.mark.xdist_group("ray"),
    # Ray sets options of its own that it has deprecated.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
    pytest.mark.filterwarnings("ignore::FutureWarning:ray"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

DEADLINE_S = 90
QUERY = "How many people live in Berlin?"
PASSAGES = [
    "Berlin had a population of 3,520,031 registered inhabitants.",
    "Berlin is well known for its museums.",
    "",
    "The dog 👩‍👩‍👧 sleeps.",
]
PAIRS = [(QUERY, passage) for passage in PASSAGES]
BODY = {"model": "any", "query": QUERY, "documents": PASSAGES}


class SlowCrossEncoder(WordOverlapCrossEncoder):
    """Takes a while for each pass, so that requests wait."""

    def score(self, text_pairs):
        time.sleep(0.2)
        return super().score(text_pairs)


@pytest.fixture(scope="module")
def port():
    """The port of a proxy on a Ray of this module, which is gone afterwards."""
    from ray import serve

    number = free_port()
    before = set(psutil.Process().children(recursive=True))
    with connected({ray_proxy.VARIABLE: ray_proxy.IMPORT_PATH}) as own:
        assert own
        started = set(psutil.Process().children(recursive=True))
        yield number
        started |= set(psutil.Process().children(recursive=True))
        serve.shutdown()
    _, alive = psutil.wait_procs(started - before, timeout=30)
    for one in alive:
        one.kill()
    assert alive == []


def replicas() -> dict[str, int]:
    from ray import serve

    return dict(serve.status().applications["rerank"].deployments[DEPLOYMENT].replica_states)


def replica_processes() -> list[psutil.Process]:
    children = psutil.Process().children(recursive=True)
    return [one for one in children if f"ServeReplica:rerank:{DEPLOYMENT}" in one.name()]


def test_scores_are_those_in_process(port, tiny_checkpoint):
    model = TorchCrossEncoder(model=tiny_checkpoint, device="cpu")
    application = scaled(1, None).bind(model, 1, {"served_name": "tiny", "api_keys": ["secret"]})
    # Below a prefix, where a check of the whole path would let everybody in.
    with deployed(application, host="127.0.0.1", port=port, route_prefix="/search"):
        url = f"http://127.0.0.1:{port}/search"
        remote = RemoteCrossEncoder(url=f"{url}/v2/rerank", api_key="secret")
        assert remote.score(PAIRS) == pytest.approx(model.score(PAIRS), abs=1e-6)
        refused = httpx.post(f"{url}/v2/rerank", json=BODY)
        assert (refused.status_code, list(refused.json())) == (401, ["message"])
        key = {"authorization": "Bearer secret", "content-type": "application/json"}
        large = httpx.post(f"{url}/v2/rerank", content=b" " * (17 * 2**20), headers=key)
        assert large.status_code == 413
        assert httpx.get(f"{url}/ready").status_code == 200
        nothing = httpx.get(f"{url}/nothing")
        assert (nothing.status_code, list(nothing.json())) == (404, ["message"])
    gone = httpx.get(f"http://127.0.0.1:{port}/ready")
    assert (gone.status_code, list(gone.json())) == (404, ["message"])


def test_a_killed_replica_loses_no_answer(port):
    url = f"http://127.0.0.1:{port}"
    remote = RemoteCrossEncoder(url=f"{url}/v2/rerank")
    expected = WordOverlapCrossEncoder().score(PAIRS)
    application = scaled(2, None).bind(SlowCrossEncoder(), 1, {})
    with (
        deployed(application, host="127.0.0.1", port=port),
        ThreadPoolExecutor(16) as pool,
    ):
        victim, *_ = wait_until(replica_processes, "a replica")
        answers = [pool.submit(remote.score, PAIRS) for _ in range(100)]
        wait_until(lambda: sum(one.done() for one in answers) > 10, "some answers")
        os.kill(victim.pid, signal.SIGKILL)
        assert [one.result(DEADLINE_S) for one in answers] == [expected] * 100
        wait_until(lambda: replicas().get("RUNNING") == 2, "another replica in its place")
        assert victim not in replica_processes()


def test_a_request_of_a_killed_replica_is_answered_by_502(port):
    application = scaled(1, None).bind(SlowCrossEncoder(), 1, {})
    with deployed(application, host="127.0.0.1", port=port), ThreadPoolExecutor(8) as pool:
        url = f"http://127.0.0.1:{port}/v2/rerank"
        (victim,) = replica_processes()
        answers = [pool.submit(httpx.post, url, json=BODY, timeout=DEADLINE_S) for _ in range(8)]
        wait_until(lambda: any(one.done() for one in answers), "an answer")
        os.kill(victim.pid, signal.SIGKILL)
        codes = {(one.result().status_code, *one.result().json()) for one in answers}
        assert (502, "message") in codes
        assert {code for code, *_ in codes} <= {200, 502, 503}


def test_replicas_are_added_while_requests_wait(port):
    application = scaled(1, 2).bind(SlowCrossEncoder(), 1, {"joint_scoring": False})
    with deployed(application, host="127.0.0.1", port=port):
        assert replicas() == {"RUNNING": 1}
        ended = threading.Event()
        url = f"http://127.0.0.1:{port}/v2/rerank"

        def ask() -> set[int]:
            codes = set()
            while not ended.is_set():
                codes.add(httpx.post(url, json=BODY, timeout=DEADLINE_S).status_code)
            return codes

        with ThreadPoolExecutor(24) as pool:
            asked = [pool.submit(ask) for _ in range(24)]
            try:
                wait_until(lambda: replicas().get("RUNNING") == 2, "the second replica")
            finally:
                ended.set()
            assert set.union(*(one.result() for one in asked)) == {200}


def test_what_is_too_much_is_answered_by_503(port):
    application = scaled(1, None)
    application = application.options(max_ongoing_requests=2, max_queued_requests=2)
    with (
        deployed(application.bind(SlowCrossEncoder(), 1, {}), host="127.0.0.1", port=port),
        ThreadPoolExecutor(16) as pool,
    ):
        url = f"http://127.0.0.1:{port}/v2/rerank"
        asked = [pool.submit(httpx.post, url, json=BODY, timeout=DEADLINE_S) for _ in range(16)]
        answers = [one.result() for one in asked]
        refused = [one for one in answers if one.status_code == 503]
        assert refused
        assert {one.status_code for one in answers} == {200, 503}
        assert list(refused[0].json()) == ["message"]
        assert refused[0].headers["retry-after"] == "1"
        assert httpx.post(url, json=BODY, timeout=DEADLINE_S).status_code == 200


def test_an_application_that_is_there_is_left_alone(port):
    application = scaled(1, None).bind(WordOverlapCrossEncoder(), 1, {})
    with deployed(application, host="127.0.0.1", port=port):
        with (
            pytest.raises(ValueError, match="already serves an application 'rerank'"),
            deployed(application, host="127.0.0.1", port=port),
        ):
            pass
        assert httpx.post(f"http://127.0.0.1:{port}/v2/rerank", json=BODY).status_code == 200


def test_a_new_version_takes_over_without_a_lost_answer(port):
    url = f"http://127.0.0.1:{port}/v2/rerank"
    names: list[Any] = []
    ended = threading.Event()

    def ask() -> None:
        while not ended.is_set():
            names.append(httpx.post(url, json=BODY, timeout=DEADLINE_S))

    def version(name):
        return scaled(2, None).bind(WordOverlapCrossEncoder(), 1, {"served_name": name})

    from ray import serve

    with deployed(version("old"), host="127.0.0.1", port=port), ThreadPoolExecutor(2) as pool:
        before = set(replica_processes())
        asked = [pool.submit(ask) for _ in range(2)]
        try:
            serve.run(version("new"), name="rerank", route_prefix="/")
        finally:
            ended.set()
        for one in asked:
            one.result()
        assert {answer.status_code for answer in names} == {200}
        assert not before & set(replica_processes())


def test_a_model_that_can_not_load_is_told(port):
    application = scaled(1, None).options(max_constructor_retry_count=1)
    model = TorchCrossEncoder(model="/nowhere/at/all")
    with (
        pytest.raises(ModelLoadError, match="/nowhere/at/all"),
        deployed(application.bind(model, 1, {}), host="127.0.0.1", port=port),
    ):
        pass


@pytest.mark.parametrize(("replicas", "most"), [(0, None), (2, 1)])
def test_numbers_of_replicas_that_can_not_be(replicas, most):
    with pytest.raises(ValueError, match="expected 1 ≤ replicas ≤ max_replicas"):
        serve_on_ray(WordOverlapCrossEncoder(), replicas=replicas, max_replicas=most)


def config() -> dict[str, Any]:
    """The file that ships."""
    file = resources.files("langchain_rerank.server") / "serve_config.yaml"
    return yaml.safe_load(file.read_text(encoding="utf-8"))


def test_config_file_is_one():
    from ray.serve.schema import ServeDeploySchema

    schema = ServeDeploySchema.model_validate(config())
    assert schema.applications[0].deployments[0].name == DEPLOYMENT


@contextmanager
def running(arguments, log, **environment):
    """A process of its own, whose own children are gone afterwards."""
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", *arguments],
            stdout=file,
            stderr=file,
            env={**os.environ, **environment},
        )
    started: set[psutil.Process] = set()
    try:
        yield process, lambda: started.update(psutil.Process(process.pid).children(recursive=True))
    finally:
        process.kill()
        process.wait()
        for one in psutil.wait_procs(started, timeout=10)[1]:
            one.kill()


def until_ready(url, process, log):
    def ready() -> bool:
        assert process.poll() is None, log.read_text()
        try:
            return httpx.get(f"{url}/ready").status_code == 200
        except httpx.TransportError:
            return False

    wait_until(ready, "the service")


def test_arguments_of_the_file_are_checked():
    with pytest.raises(ValueError, match="backend"):
        build_app({"backend": "tensorflow"})
    with pytest.raises(ValueError, match="modell"):
        build_app({"modell": "m"})


def test_config_file_runs_on_a_ray_that_is_there(port, tiny_checkpoint, tmp_path):
    import ray

    given = config()
    given["http_options"]["port"] = port
    given["applications"][0]["args"]["model"] = tiny_checkpoint
    file, log = tmp_path / "config.yaml", tmp_path / "log"
    file.write_text(yaml.safe_dump(given))
    address = ray.get_runtime_context().gcs_address
    url = f"http://127.0.0.1:{port}"
    command = ["ray.serve.scripts", "run", str(file)]
    with running(command, log, RAY_ADDRESS=address) as (process, _):
        until_ready(url, process, log)
        model = TorchCrossEncoder(model=tiny_checkpoint, device="cpu")
        found = RemoteCrossEncoder(url=f"{url}/v2/rerank").score(PAIRS)
        assert found == pytest.approx(model.score(PAIRS), abs=1e-6)
        process.send_signal(signal.SIGINT)
        process.wait(DEADLINE_S)


def test_the_command(tiny_checkpoint, tmp_path):
    number, log = free_port(), tmp_path / "log"
    url = f"http://127.0.0.1:{number}"
    command = ["langchain_rerank.cli", "serve", "--ray", "--replicas", "1"]
    command += ["--model", tiny_checkpoint, "--port", str(number)]
    with running(command, log) as (process, note_children):
        until_ready(url, process, log)
        note_children()
        assert httpx.post(f"{url}/v2/rerank", json=BODY).status_code == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE_S) == 0, log.read_text()
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{url}/ready")
