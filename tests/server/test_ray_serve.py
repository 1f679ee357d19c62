"""The service on a real local Ray: scores, a killed replica, overload, the config file."""

from __future__ import annotations

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib import resources

import httpx
import psutil
import pytest
import yaml

from langchain_rerank import ModelLoadError, RemoteCrossEncoder, TorchCrossEncoder
from langchain_rerank.server.ray_serve import RerankReplica, build_app, deployment
from tests.fakes import WordOverlapCrossEncoder
from tests.server.serving import JSON, on_ray
from tests.support import free_port, wait_until

pytestmark = on_ray

DEADLINE_S = 90
NAME = RerankReplica.__name__
PASSAGES = ["Berlin had 3,520,031 inhabitants.", "Museums.", "", "The dog 👩‍👩‍👧 sleeps."]
PAIRS = [("How many people live in Berlin?", passage) for passage in PASSAGES]
BODY = {"query": PAIRS[0][0], "documents": PASSAGES}


class SlowCrossEncoder(WordOverlapCrossEncoder):
    """Takes a while for each pass, so that requests wait."""

    def score(self, text_pairs):
        time.sleep(0.1)
        return super().score(text_pairs)


@pytest.fixture(scope="module")
def serving(local_ray):
    """Serve a cross encoder by replicas, and give the URL."""
    from ray import serve

    port = free_port()
    serve.start(http_options={"host": "127.0.0.1", "port": port})

    @contextmanager
    def serving(application, path="/"):
        serve.run(application, name="rerank", route_prefix=path)
        try:
            yield f"http://127.0.0.1:{port}{path.rstrip('/')}/v2/rerank"
        finally:
            serve.delete("rerank")

    yield serving
    serve.shutdown()


def post(url, **options):
    return httpx.post(url, timeout=DEADLINE_S, **({"json": BODY} | options))


def test_scores_are_those_in_process_and_keys_and_limits_hold_below_a_prefix(
    serving, tiny, monkeypatch
):
    monkeypatch.setenv("LANGCHAIN_RERANK_SERVER_API_KEYS", "secret")
    # As `serve run` hands its arguments on.
    application = build_app({"model": tiny.model, "cores": "1", "served_name": "tiny"})
    with serving(application, "/search") as url:
        remote = RemoteCrossEncoder(url=url, api_key="secret")
        assert remote.score(PAIRS) == pytest.approx(tiny.score(PAIRS), abs=1e-6)
        refused = post(url)
        assert (refused.status_code, list(refused.json())) == (401, ["message"])
        key = {"authorization": "Bearer secret", **JSON}
        large = post(url, json=None, content=b" " * (17 * 2**20), headers=key)
        assert large.status_code == 413
        ready = httpx.get(url.replace("v2/rerank", "ready"))
        assert ready.json() == {"status": "ready", "model": "tiny"}


def test_too_much_is_answered_by_503_and_a_killed_replica_loses_no_answer(serving):
    expected = WordOverlapCrossEncoder().score(PAIRS)
    share = {"num_cpus": 0.5}
    few = {"num_replicas": 2, "max_ongoing_requests": 2, "max_queued_requests": 4}
    slow = deployment().options(ray_actor_options=share, **few).bind(SlowCrossEncoder(), 1, {})
    with serving(slow) as url, ThreadPoolExecutor(24) as crowd, ThreadPoolExecutor(4) as pool:
        answers = list(crowd.map(post, [url] * 24))
        assert {one.status_code for one in answers} == {200, 503}
        refused = next(one for one in answers if one.status_code == 503)
        assert refused.headers["retry-after"] == "1"
        remote = RemoteCrossEncoder(url=url)
        every = psutil.Process().children(recursive=True)
        victim = next(one for one in every if f"ServeReplica:rerank:{NAME}" in one.name())
        scored = [pool.submit(remote.score, PAIRS) for _ in range(16)]
        wait_until(lambda: sum(one.done() for one in scored) > 3, "some answers")
        os.kill(victim.pid, signal.SIGKILL)
        assert [one.result(DEADLINE_S) for one in scored] == [expected] * 16


def test_the_config_file_fits_and_wrong_arguments_are_told(tiny, local_ray):
    from ray.serve.schema import ServeDeploySchema

    shipped = resources.files("langchain_rerank.server") / "serve_config.yaml"
    config = ServeDeploySchema(**yaml.safe_load(shipped.read_text(encoding="utf-8")))
    (application,) = config.applications
    assert application.import_path == f"{build_app.__module__}:{build_app.__name__}"
    assert build_app(application.args | {"model": tiny.model})
    assert [one.name for one in application.deployments] == [NAME]
    for wrong in ({"backend": "tensorflow"}, {"modell": "m"}, {"replicas": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            build_app(wrong)
    with pytest.raises(ModelLoadError, match="/nowhere/at/all"):
        RerankReplica(TorchCrossEncoder(model="/nowhere/at/all"), 1, {})
