"""The service on a real local Ray: scores, scaling, a killed replica, overload, the config file."""

from __future__ import annotations

import os
import signal
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
from langchain_rerank.server.ray_serve import (
    DEPLOYMENT,
    build_app,
    deployed,
    deployment,
    serve_on_ray,
)
from tests.fakes import WordOverlapCrossEncoder
from tests.server.serving import JSON, Child, child, serve
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
PASSAGES = [
    "Berlin had 3,520,031 registered inhabitants.",
    "Museums.",
    "",
    "The dog 👩‍👩‍👧 sleeps.",
]
PAIRS = [("How many people live in Berlin?", passage) for passage in PASSAGES]
BODY = {"query": PAIRS[0][0], "documents": PASSAGES}


class SlowCrossEncoder(WordOverlapCrossEncoder):
    """Takes a while for each pass, so that requests wait."""

    def score(self, text_pairs):
        time.sleep(0.2)
        return super().score(text_pairs)


def children() -> set[psutil.Process]:
    return set(psutil.Process().children(recursive=True))


@pytest.fixture(scope="module")
def port():
    """The port of a proxy on a Ray of this module, which is gone afterwards."""
    from ray import serve

    before = children()
    with connected({ray_proxy.VARIABLE: ray_proxy.IMPORT_PATH}) as own:
        assert own
        started = children()
        yield free_port()
        started |= children()
        serve.shutdown()
    _, alive = psutil.wait_procs(started - before, timeout=30)
    for one in alive:
        one.kill()
    assert alive == []


@pytest.fixture
def serving(port):
    """Serve a cross encoder by replicas, and give the URL."""

    @contextmanager
    def serving(cross_encoder, *, path="/", settings=None, **options):
        share = {"num_cpus": 0.5}
        application = deployment(ray_actor_options=share, **options)
        bound = application.bind(cross_encoder, 1, settings or {})
        with deployed(bound, host="127.0.0.1", port=port, route_prefix=path):
            yield f"http://127.0.0.1:{port}{path.rstrip('/')}/v2/rerank"

    return serving


def replicas() -> dict[str, int]:
    from ray import serve

    return dict(serve.status().applications["rerank"].deployments[DEPLOYMENT].replica_states)


def replica_processes() -> list[psutil.Process]:
    return [one for one in children() if f"ServeReplica:rerank:{DEPLOYMENT}" in one.name()]


def post(url: str, **options: Any) -> httpx.Response:
    return httpx.post(url, timeout=DEADLINE_S, **({"json": BODY} | options))


def test_scores_are_those_in_process_and_keys_and_limits_hold_below_a_prefix(serving, tiny):
    with serving(tiny, path="/search", settings={"api_keys": ["secret"]}) as url:
        remote = RemoteCrossEncoder(url=url, api_key="secret")
        assert remote.score(PAIRS) == pytest.approx(tiny.score(PAIRS), abs=1e-6)
        refused = post(url)
        assert (refused.status_code, list(refused.json())) == (401, ["message"])
        key = {"authorization": "Bearer secret", **JSON}
        large = post(url, json=None, content=b" " * (17 * 2**20), headers=key)
        assert large.status_code == 413
        assert httpx.get(url.replace("v2/rerank", "ready")).status_code == 200


def test_a_killed_replica_loses_no_answer(serving):
    expected = WordOverlapCrossEncoder().score(PAIRS)
    with serving(SlowCrossEncoder(), num_replicas=2) as url, ThreadPoolExecutor(16) as pool:
        remote = RemoteCrossEncoder(url=url)
        victim, *_ = wait_until(replica_processes, "a replica")
        answers = [pool.submit(remote.score, PAIRS) for _ in range(100)]
        wait_until(lambda: sum(one.done() for one in answers) > 10, "some answers")
        os.kill(victim.pid, signal.SIGKILL)
        assert [one.result(DEADLINE_S) for one in answers] == [expected] * 100
        wait_until(lambda: replicas().get("RUNNING") == 2, "another replica in its place")
        assert victim not in replica_processes()


def test_what_is_too_much_is_answered_by_503_and_a_second_application_is_refused(serving):
    options = {"max_ongoing_requests": 2, "max_queued_requests": 2}
    with serving(SlowCrossEncoder(), **options) as url, ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(post, [url] * 16))
        refused = [one for one in answers if one.status_code == 503]
        assert {one.status_code for one in answers} == {200, 503}
        assert refused[0].headers["retry-after"] == "1"
        with (
            pytest.raises(ValueError, match="already serves an application 'rerank'"),
            serving(SlowCrossEncoder()),
        ):
            pass
        assert post(url).status_code == 200


def test_a_model_that_can_not_load_is_told(serving):
    model = TorchCrossEncoder(model="/nowhere/at/all")
    with (
        pytest.raises(ModelLoadError, match="/nowhere/at/all"),
        serving(model, max_constructor_retry_count=1),
    ):
        pass


def test_arguments_are_checked():
    for replicas, most in ((0, None), (2, 1)):
        with pytest.raises(ValueError, match="expected 1 ≤ replicas ≤ max_replicas"):
            serve_on_ray(WordOverlapCrossEncoder(), replicas=replicas, max_replicas=most)
    for wrong in ({"backend": "tensorflow"}, {"modell": "m"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            build_app(wrong)


def until_ready(url: str, process: Child) -> None:
    def ready() -> bool:
        assert process.poll() is None, process.output
        try:
            return httpx.get(f"{url}/ready").status_code == 200
        except httpx.TransportError:
            return False

    wait_until(ready, "the service")


def test_config_file_runs_on_a_ray_that_is_there(port, tiny, tmp_path):
    import ray

    shipped = resources.files("langchain_rerank.server") / "serve_config.yaml"
    given = yaml.safe_load(shipped.read_text(encoding="utf-8"))
    assert given["applications"][0]["deployments"][0]["name"] == DEPLOYMENT
    given["http_options"]["port"] = port
    given["applications"][0]["args"]["model"] = tiny.model
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(given))
    address = ray.get_runtime_context().gcs_address
    url = f"http://127.0.0.1:{port}"
    with child("-m", "ray.serve.scripts", "run", str(file), RAY_ADDRESS=address) as process:
        until_ready(url, process)
        found = RemoteCrossEncoder(url=f"{url}/v2/rerank").score(PAIRS)
        assert found == pytest.approx(tiny.score(PAIRS), abs=1e-6)
        process.send_signal(signal.SIGINT)
        process.wait(DEADLINE_S)


def test_the_command(tiny):
    number = str(free_port())
    url = f"http://127.0.0.1:{number}"
    with serve("--ray", "--model", tiny.model, "--port", number) as process:
        until_ready(url, process)
        assert post(f"{url}/v2/rerank").status_code == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE_S) == 0, process.output
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{url}/ready")
