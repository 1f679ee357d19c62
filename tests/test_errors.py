"""Errors cross processes and copies whole, or a pool of processes waits for them for ever."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
import traceback

import pytest

from langchain_rerank.errors import (
    EvaluationError,
    MissingDependencyError,
    ModelLoadError,
    RemoteError,
    RerankError,
    ScoringError,
    require,
)


class UsersError(RemoteError):
    """A subclass with arguments of its own."""

    def __init__(self, *, shard: int) -> None:
        super().__init__(f"shard {shard} is gone", url="http://host", status=503)
        self.add_note("while scoring")


ERRORS = [
    MissingDependencyError("bm25s", "langchain-rerank[hybrid]", "BM25"),
    RemoteError("no", url="http://host", status=503, attempts=3),
    UsersError(shard=3),
    *(kind("said") for kind in (EvaluationError, ModelLoadError, ScoringError)),
    RerankError(),
]


@pytest.mark.parametrize("again", [lambda e: pickle.loads(pickle.dumps(e)), copy.deepcopy])  # noqa: S301
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_an_error_comes_back_as_it_was(error, again):
    twin = again(error)
    assert type(twin) is type(error)
    assert (twin.args, vars(twin)) == (error.args, vars(error))
    assert traceback.format_exception_only(twin) == traceback.format_exception_only(error)
    assert getattr(twin, "msg", None) == getattr(error, "msg", None)


def _fail(number: int) -> None:
    if number < len(ERRORS):
        raise ERRORS[number]
    require("no_such_package", install="langchain-rerank[onnx]", purpose="OnnxCrossEncoder")


def test_every_error_of_a_pools_worker_arrives():
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        for number, error in enumerate([*ERRORS, ERRORS[0]]):
            with pytest.raises(type(error)):
                pool.apply_async(_fail, (number,)).get(timeout=60)
