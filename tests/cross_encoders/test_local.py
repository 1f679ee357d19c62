"""What the engines that load a checkpoint promise alike: TorchCrossEncoder and OnnxCrossEncoder."""

from __future__ import annotations

import copy
import json
import os
import pickle
import random
import shutil
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from pydantic import ValidationError

from langchain_rerank import ModelLoadError, OnnxCrossEncoder, TorchCrossEncoder
from langchain_rerank.cross_encoders import loaded
from langchain_rerank.cross_encoders.processes import CancelledCallError, cancelled
from tests.texts import BERLIN, FILLER, MUSEUMS, POPULATION

if TYPE_CHECKING:
    from collections.abc import Callable

    from langchain_rerank.cross_encoders.loaded import CheckpointCrossEncoder

    Make = Callable[..., CheckpointCrossEncoder]

THREADS = 16
PAIRS = [(BERLIN, POPULATION), (BERLIN, MUSEUMS), (BERLIN, ""), ("", MUSEUMS), ("", "")]
WORDS = "berlin has a population of many people and museums that nobody counts".split()  # noqa: SIM905  # reads easier


def some_batches(count: int) -> list[list[tuple[str, str]]]:
    """Batches of one to four short pairs of assorted lengths."""
    generator = random.Random(7)  # noqa: S311  # the texts are no secret

    def text(most: int) -> str:
        return " ".join(generator.choices(WORDS, k=generator.randint(0, most)))

    return [[(text(8), text(24)) for _ in range(generator.randint(1, 4))] for _ in range(count)]


BATCHES = some_batches(24)


@pytest.fixture(params=[TorchCrossEncoder, OnnxCrossEncoder])
def make(request, tiny_checkpoint, monkeypatch) -> Make:
    # Beside the checkpoint it is exported once for all tests, and not into the user's cache.
    monkeypatch.setenv("LANGCHAIN_RERANK_CACHE", f"{tiny_checkpoint}-cache")

    def make(model: Any = tiny_checkpoint, **fields: Any) -> CheckpointCrossEncoder:
        return request.param(**{"model": model, "normalize": False, **fields})

    return make


@pytest.mark.parametrize("engine", ["cross_encoder", "onnx_cross_encoder"])
def test_a_long_document_is_read_whole_where_asked_for(engine, request, caplog):
    real = request.getfixturevalue(engine)
    pairs = [(BERLIN, "Nobody knows anything about it. " * 100 + POPULATION), (BERLIN, MUSEUMS)]
    scores = {
        how: real.model_copy(update={"long_documents": how}).score(pairs)
        for how in ("first", "mean", "max")
    }
    assert scores["first"][0] < scores["mean"][0] < scores["max"][0]
    assert scores["max"][0] > scores["max"][1]
    assert scores["max"][1] == scores["mean"][1] == pytest.approx(scores["first"][1], abs=1e-5)
    (record,) = caplog.records
    assert "1 of 2 passages are longer than max_length=512" in record.message
    assert 'long_documents="max"' in record.message


@pytest.mark.parametrize("how", ["max", "mean"])
def test_a_long_document_does_not_disturb_its_neighbours(make, how):
    model = make(long_documents=how, max_length=64)
    pairs = [*PAIRS, (BERLIN, FILLER), (BERLIN, POPULATION)]
    alone = [model.score([pair])[0] for pair in pairs]
    assert model.score(pairs) == pytest.approx(alone, abs=1e-5)
    assert model.score(pairs[::-1]) == pytest.approx(alone[::-1], abs=1e-5)


@pytest.mark.parametrize("how", ["first", "max"])
def test_a_long_query_leaves_room_for_the_passage_and_is_warned_of_once(make, caplog, how):
    model = make(max_length=16, long_documents=how)
    query = " ".join(WORDS)
    for _ in range(2):
        scores = model.score([(query, "museums"), (query, "population"), (query, FILLER[:200])])
    assert len({round(score, 6) for score in scores}) == 3, "the passages must be read"
    (record,) = (record for record in caplog.records if "query" in record.message)
    assert "longer than 8 tokens" in record.message
    first = " ".join(WORDS[:8])
    cut = model.score([(first, "museums"), (first, "population"), (first, FILLER[:200])])
    assert scores == pytest.approx(cut, abs=1e-6)


def test_instructions_stand_before_the_texts(make):
    instructed = make(query_instruction="Find: ", passage_instruction="Text: ")
    by_hand = [("Find: " + query, "Text: " + passage) for query, passage in PAIRS]
    assert instructed.score(PAIRS) == pytest.approx(make().score(by_hand), abs=1e-6)
    assert instructed.score(PAIRS) != pytest.approx(make().score(PAIRS), abs=1e-3)


# Settings, copies, life cycle


def test_constructing_loads_nothing_and_fixes_the_settings(make):
    model = make("nobody/there-is-no-such-model")
    assert model.score([]) == []
    model.close()
    with pytest.raises(ValidationError, match="frozen"):
        model.model = "another"
    with pytest.raises(ModelLoadError, match="no folder of that name") as raised:
        model.load()
    assert raised.value.__cause__ is not None


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"max_length": 8}, "max_length.*16.*8"),
        ({"batch_tokens": 0}, "batch_tokens.*0"),
        ({"long_documents": "median"}, "long_documents.*first.*max.*mean.*median"),
        ({"top_n": 3}, "top_n.*not permitted"),
        ({"dtype": "float8"}, "dtype.*float8"),
        ({"num_threads": 0}, "num_threads.*0"),
        ({"model": ""}, "model.*at least 1"),
    ],
)
def test_wrong_arguments_say_what_is_expected_and_what_came(make, fields, named):
    with pytest.raises(ValidationError, match=f"(?s){named}"):
        make(**fields)


def test_what_the_checkpoint_can_not_do_is_an_error_at_load(make):
    with pytest.raises(ModelLoadError, match="max_length=513 is over the 512"):
        make(max_length=513).load()
    with pytest.raises(ValueError, match="takes none; query_instruction"):
        make(instruction="Find cities.").score(PAIRS)
    with pytest.raises(ValueError, match="takes none"):
        make().with_instruction("Find cities.")


def test_paths_and_the_home_folder_are_models(make, tiny_checkpoint, monkeypatch):
    folder = Path(tiny_checkpoint)
    monkeypatch.setenv("HOME", str(folder.parent))
    monkeypatch.chdir(folder.parent)
    expected = make().score(PAIRS)
    for model in (folder, f"~/{folder.name}", Path("~") / folder.name, folder.name):
        assert make(model).score(PAIRS) == expected


COPIERS = {
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),  # noqa: S301  # our own bytes
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
    "model_copy deep": lambda model: model.model_copy(deep=True),
}


@pytest.mark.parametrize("how", COPIERS)
def test_a_copy_has_the_settings_and_shares_the_weights(make, how):
    model = make(max_length=128)
    assert COPIERS[how](model) == model
    expected = model.score(PAIRS)
    twin = COPIERS[how](model)
    assert (twin, twin._loaded) == (model, None)
    assert twin.score(PAIRS) == expected
    assert twin._loaded is model._loaded
    twin.close()
    assert twin._loaded is None
    assert model.score(PAIRS) == twin.score(PAIRS) == expected


def test_the_scale_of_scores_is_told(make, tiny_checkpoint, tmp_path):
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "identity")
    config = json.loads((folder / "config.json").read_text())
    config["sentence_transformers"] = {"activation_fn": "torch.nn.modules.linear.Identity"}
    (folder / "config.json").write_text(json.dumps(config))
    for model, activation, scale in (
        (tiny_checkpoint, "sigmoid", "sigmoid"),
        (folder, "identity", "sigmoid (uncalibrated)"),
    ):
        cross_encoder = make(model, normalize=True)
        assert (cross_encoder.activation, cross_encoder.score_scale) == (activation, scale)
    assert make(folder).score_scale == "logit"


def test_bars_only_where_asked_for(make, capfd):
    make().score(PAIRS)
    assert capfd.readouterr() == ("", "")
    make(show_progress=True).score(PAIRS)
    assert "Scoring" in capfd.readouterr().err


# Threads, forks, cancelled calls


@pytest.mark.parametrize("fields", [{}, {"max_length": 24, "long_documents": "max"}])
def test_threads_score_as_one_after_another(make, fields, one_torch_thread):
    model = make(**fields)
    expected = [model.score(batch) for batch in BATCHES]
    assert len({score for scores in expected for score in scores}) > 40, "all alike prove nothing"
    start = threading.Barrier(THREADS)

    def work(worker: int) -> None:
        start.wait()
        for number in random.Random(worker).choices(range(len(BATCHES)), k=8):  # noqa: S311  # no secret
            if number == worker:
                model.close()  # disturbs nobody
            assert model.score(BATCHES[number]) == pytest.approx(expected[number], abs=1e-5)

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(work, range(THREADS)))


def test_threads_that_race_to_the_first_score_load_once(make, tiny_checkpoint, tmp_path):
    # A copy, as the weights of the original may be held by another test's model.
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "model")
    models = [make(folder, batch_tokens=1 + i % 2) for i in range(4)] * 2
    start = threading.Barrier(8)

    def work(model: CheckpointCrossEncoder) -> list[float]:
        start.wait()
        return model.score(PAIRS)

    with ThreadPoolExecutor(8) as pool:
        scores = list(pool.map(work, models))
    assert all(one == pytest.approx(scores[0], abs=1e-5) for one in scores)
    assert len({id(model._loaded) for model in models}) == 1


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_child_forked_while_a_thread_scores_does_not_wait_for_it(make):
    model = make()
    expected = model.score(PAIRS * 8)
    inside, forked = threading.Event(), threading.Event()

    def hold() -> None:
        # As in the midst of `score`, with every lock taken.
        with model._lock.get(), model._loaded.lock.get(), loaded.loading.get():
            inside.set()
            forked.wait()

    with ThreadPoolExecutor(1) as holder:
        holder.submit(hold)
        assert inside.wait(60)
        if (child := os.fork()) == 0:
            signal.alarm(60)
            scores = model.score(PAIRS * 8) + model.model_copy().score(PAIRS * 8)
            os._exit(0 if scores == pytest.approx(expected * 2, abs=1e-6) else 1)
        forked.set()
        assert os.waitpid(child, 0)[1] == 0


class SetAtTheThird(threading.Event):
    """Set as if somebody gave up waiting after the third batch."""

    asked = 0

    def is_set(self) -> bool:
        self.asked += 1
        return self.asked > 3


def test_a_cancelled_call_ends_between_batches(make, batches, one_torch_thread):
    model = make(batch_tokens=1)
    token = cancelled.set(SetAtTheThird())
    try:
        with pytest.raises(CancelledCallError):
            model.score(PAIRS * 80)
    finally:
        cancelled.reset(token)
    assert len(batches) == 3
    assert len(model.score(PAIRS)) == len(PAIRS)


@pytest.mark.integration
def test_memory_stays_flat_over_many_calls(make, one_torch_thread):
    model, pairs = make(), [pair for batch in BATCHES for pair in batch][:20]
    process = psutil.Process()
    for _ in range(100):
        model.score(pairs)
    before = process.memory_info().rss
    for _ in range(400):
        model.score(pairs)
    assert process.memory_info().rss - before < 8 * 2**20
