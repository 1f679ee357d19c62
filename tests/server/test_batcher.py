"""Joint scoring as its clients see it: who is scored with whom, and what a failure touches."""

from __future__ import annotations

import gc
import math
from concurrent.futures import Future, ThreadPoolExecutor

import httpx
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from langchain_rerank.server.batcher import Job, cost_of, take
from langchain_rerank.server.schemas import Limits
from tests.server.load import Question, make_questions, run_load
from tests.server.serving import GatedCrossEncoder, client_of
from tests.support import wait_until


class Requests:
    """Requests sent from threads, each counted in before the next is sent."""

    def __init__(self, client: httpx.Client, model: GatedCrossEncoder) -> None:
        self.client = client
        self.batcher = client.app.state.batcher
        self._pool = ThreadPoolExecutor(64)
        self._waiting = 0
        self._pool.submit(self.post, "first")
        wait_until(lambda: model.passes, "the model to be called")

    def post(self, *documents: str, timeout: float = 60) -> httpx.Response:
        body = {"query": "a secret", "documents": documents}
        return self.client.post("/v2/rerank", json=body, timeout=timeout)

    def send(self, *documents: str) -> Future[httpx.Response]:
        """Send a request that has to wait, and come back when it does."""
        self._waiting += 1
        sent = self._pool.submit(self.post, *documents)
        wait_until(lambda: len(self.batcher._waiting) == self._waiting, "the request to wait")
        return sent


@pytest.fixture
def requests(model, request):
    """The model is busy with a request until the test opens it."""
    with client_of(model, **getattr(request, "param", {})) as client:
        yield Requests(client, model)
        model.open()


def scores_of(reply: httpx.Response | Future[httpx.Response]) -> list[float]:
    """Scores in the order of the request."""
    reply = reply if isinstance(reply, httpx.Response) else reply.result()
    assert reply.status_code == 200, reply.text
    results = sorted(reply.json()["results"], key=lambda result: result["index"])
    return [result["relevance_score"] for result in results]


def test_requests_that_wait_are_scored_in_one_pass(requests, model):
    sent = [requests.send(*["x"] * 300), requests.send("x", "xx"), requests.send("xx", "xxx")]
    model.open()
    assert [scores_of(one) for one in sent] == [[1] * 300, [1, 2], [2, 3]]
    assert [len(texts) for texts in model.passes] == [1, 304]


class Line:
    """Requests of so many equal pairs each, and the passes over them."""

    def __init__(self, *sizes: int) -> None:
        self.jobs: list[Job] = []
        self.add(*sizes)

    def add(self, *sizes: int) -> None:
        pair = ("q", "text")
        self.jobs += [Job([pair] * size, Future(), size * cost_of(pair)) for size in sizes]

    def score(self, pairs: float) -> int:
        """Run a pass with room for so many pairs, and give how many it had."""
        before = sum(self.done())
        room = pairs * cost_of(("q", "text"))
        take([job for job in self.jobs if job.taken < len(job.pairs)], room)
        return sum(self.done()) - before

    def done(self) -> list[int]:
        return [job.taken for job in self.jobs]


def test_a_small_newcomer_is_whole_in_the_next_pass_beside_large_ones_and_makes_it_short():
    line = Line(*[1000] * 40)
    assert line.score(100) == 100
    line.add(10, 20)
    assert 60 <= line.score(100) <= 62, "as much again of the large ones, not a whole pass"
    assert line.done()[-2:] == [10, 20]
    line.add(1)
    assert line.score(100) == 25, "never less than a quarter of a pass"


@pytest.mark.parametrize("sizes", [[10] * 20, [200]])
def test_a_flood_of_shorter_requests_leaves_half_of_each_pass_to_the_oldest(sizes):
    line = Line(1000)
    line.score(100)
    for number in range(1, 5):
        line.add(*sizes)
        assert line.score(100) == 100
        assert line.done()[0] == 100 + 50 * number


def test_equal_requests_end_in_the_order_of_arrival_and_a_pass_has_a_pair_at_least():
    line = Line(*[40] * 8)
    for number in range(1, 9):
        assert line.score(40) == 40
        assert line.done() == sorted(line.done(), reverse=True)
        assert line.done()[number - 1] == 40
    line = Line(3, 5)
    while sum(line.done()) < 8:
        assert 1 <= line.score(0.1) <= 2


@pytest.mark.parametrize(
    ("documents", "said"),
    [
        (["fine", "poison"], "poisoned"),
        (["fine", "NaN"], "score nan for document 1"),
        (["panic"], "SystemExit"),
        (["lost", "fine"], "1 scores for 2 pairs"),
    ],
)
def test_a_request_that_can_not_be_scored_fails_alone(requests, model, documents, said):
    good = requests.send("good")
    bad = requests.send(*documents)
    late = requests.send("late!")
    model.open()
    assert (bad.result().status_code, said in bad.result().json()["message"]) == (500, True)
    assert [scores_of(one) for one in (good, late)] == [[4], [5]]
    assert scores_of(requests.post("after")) == [5]


def test_a_failed_large_request_is_not_scored_on(requests, model):
    requests.batcher._pass_seconds = 1e-9
    big = requests.send("poison", *["x"] * 300)
    model.open()
    assert big.result().status_code == 500
    assert model.passes[1:] == [["poison"]], "a pair a pass, and no more of them"


@pytest.mark.parametrize("passes", [0, 3])
def test_a_client_that_goes_away_frees_its_place_before_and_between_passes(requests, model, passes):
    requests.batcher._pass_seconds = 1e-9 if passes else math.inf  # a pair a pass
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(requests.post, *["gone"] * 1000, timeout=0.5)
        for number in range(2, passes + 2):
            model.let_pass()
            wait_until(lambda number=number: len(model.passes) == number, "a pass")
        assert isinstance(asked.exception(), httpx.ReadTimeout)
    wait_until(lambda: len(requests.batcher._waiting) == 0, "the place to be freed")
    model.open()
    assert scores_of(requests.post("after")) == [5]
    assert sum("gone" in texts for texts in model.passes) <= passes


@pytest.mark.parametrize("requests", [{"limits": Limits(waiting=3)}], indirect=True)
def test_too_many_waiting_requests_are_sent_away_until_there_is_room(requests, model):
    sent = [requests.send("waits") for _ in range(3)]
    refused = requests.post("too many")
    assert refused.status_code == 503
    assert int(refused.headers["retry-after"]) >= 1
    assert "3 requests wait already" in refused.json()["message"]
    model.open()
    assert [scores_of(one) for one in sent] == [[5]] * 3
    assert scores_of(requests.post("after")) == [5]
    assert all("too many" not in texts for texts in model.passes)


def samples(client: httpx.Client) -> dict[tuple[str, ...], float]:
    """Every sample of a scrape by its name, without "rerank_", and its labels."""
    families = text_string_to_metric_families(client.get("/metrics").text)
    every = [sample for family in families for sample in family.samples]
    return {(one.name.removeprefix("rerank_"), *one.labels.values()): one.value for one in every}


def test_requests_passes_and_what_waits_are_counted_each_app_for_itself(requests, model, lengths):
    before = samples(lengths)["pass_requests_sum",]
    others = [requests.send("b", "c") for _ in range(4)]
    assert samples(requests.client)["waiting_requests",] == 4
    with pytest.raises(httpx.ReadTimeout):
        requests.post("d", timeout=0.2)
    gone = ("requests_total", "/v2/rerank", "499")
    wait_until(lambda: samples(requests.client).get(gone) == 1, "the client to be missed")
    model.open()
    assert [scores_of(one) for one in others] == [[1, 1]] * 4
    assert [requests.post(*sent).status_code for sent in ([], ["poison"])] == [422, 500]
    requests.client.get("/nowhere")
    found = samples(requests.client)
    assert samples(lengths)["pass_requests_sum",] == before
    counted = {key[1:]: value for key, value in found.items() if key[0] == "requests_total"}
    rerank = {("/v2/rerank", status): n for status, n in (("200", 5), ("422", 1), ("500", 1))}
    assert counted == {**rerank, ("/v2/rerank", "499"): 1, ("other", "404"): 1}
    values = {
        ("request_seconds_count",): 5,
        ("pass_pairs_sum",): 10,
        ("pass_requests_sum",): 6,
        ("pass_requests_bucket", "1.0"): 2,
        ("queue_seconds_count",): 6,
        ("scoring_seconds_count",): 3,
        ("waiting_requests",): 0,
    }
    assert {key: found[key] for key in values} == values
    assert found["process_resident_memory_bytes",] > 2**20
    assert not any("a secret" in part for name in found for part in name)


def test_a_span_continues_the_callers_trace_and_holds_counts_only(spans, lengths):
    trace_id = "0af7651916cd43dd8448eb211c80319c"
    headers = {"traceparent": f"00-{trace_id}-b7ad6b7169203331-01"}
    body = {"query": "a secret", "documents": ["a", "private text"]}
    lengths.post("/v2/rerank", json=body, headers=headers)
    (span,) = wait_until(spans.get_finished_spans, "the span")
    assert (span.name, span.kind.name) == ("POST /v2/rerank", "SERVER")
    assert f"{span.context.trace_id:032x}" == trace_id
    counts = {"rerank.documents": 2, "rerank.characters": len("a secretaprivate text")}
    assert span.attributes == {"http.route": "/v2/rerank", **counts}


@pytest.mark.integration
def test_64_clients_get_every_score_right_and_share_passes_and_nothing_of_them_is_kept(tiny):
    many, few = (make_questions(tiny, 20, passages=n, words=15) for n in (20, 2))
    with client_of(tiny) as client:

        def load(questions: list[Question], total: int) -> None:
            report = run_load(str(client.base_url), questions, clients=64, total=total)
            assert (report.errors, len(report.latencies)) == ([], total)
            assert report.largest_difference < 1e-5, "scored alone here, together there"

        def objects() -> int:
            """How many are alive between connections; memory also moves with its allocator."""
            port = client.base_url.port
            every = psutil.Process().net_connections
            wait_until(lambda: port not in {one.laddr.port for one in every() if one.raddr}, "ends")
            gc.collect()
            return len(gc.get_objects())

        load(many, 300)
        passes = client.app.state.batcher.registry.get_sample_value("rerank_pass_requests_count")
        assert passes < 200, "requests that wait share passes"
        load(few, 300)
        before = objects()
        load(few, 1200)
        leaks = "no more than an object for every second request"
        wait_until(lambda: objects() - before < 600, leaks, timeout=20)
