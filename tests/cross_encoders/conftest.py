"""Cross encoders and checkpoints that the tests of this folder share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from langchain_core.stores import InMemoryByteStore

from langchain_rerank import (
    CachedCrossEncoder,
    FlagEmbeddingCrossEncoder,
    OnnxCrossEncoder,
    RemoteCrossEncoder,
    TorchCrossEncoder,
)
from langchain_rerank.cross_encoders.endpoints import CERTIFICATES
from tests.cross_encoders.families import Family, save_tiny
from tests.fakes import WordOverlapCrossEncoder
from tests.stand_ins import StandIn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from langchain_core.cross_encoders import BaseCrossEncoder


@pytest.fixture
def server() -> Iterator[StandIn]:
    """A rerank server of the test's own."""
    with StandIn() as server:
        yield server


@pytest.fixture
def other() -> Iterator[StandIn]:
    with StandIn() as server:
        yield server


@pytest.fixture
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment without proxies and certificates, to which the test may add."""
    for name in ("ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", *CERTIFICATES):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    return monkeypatch


@pytest.fixture(scope="session")
def fake() -> WordOverlapCrossEncoder:
    return WordOverlapCrossEncoder()


@pytest.fixture
def cached(cross_encoder: TorchCrossEncoder) -> CachedCrossEncoder:
    return CachedCrossEncoder(cross_encoder, InMemoryByteStore())


@pytest.fixture(scope="session")
def onnx_cross_encoder(checkpoint: str) -> OnnxCrossEncoder:
    """The same checkpoint, exported and quantized; gives logits, loaded once a session."""
    return OnnxCrossEncoder(model=checkpoint, normalize=False)


@pytest.fixture(scope="session")
def remote(cross_encoder: TorchCrossEncoder) -> Iterator[RemoteCrossEncoder]:
    """The real offline reranker behind a server of Cohere's shape, two documents a request."""
    with StandIn("cohere", cross_encoder) as server:
        yield RemoteCrossEncoder(url=server.url, max_documents=2)


@pytest.fixture(scope="session")
def remote_tei(fake: WordOverlapCrossEncoder) -> Iterator[RemoteCrossEncoder]:
    """A fake behind two servers of TEI's shape."""
    with StandIn("tei", fake) as one, StandIn("tei", fake) as another:
        yield RemoteCrossEncoder(url=(one.url, another.url), dialect="tei")


# A new cross encoder joins the contract by the name of its fixture.
@pytest.fixture(
    params=["fake", "cross_encoder", "onnx_cross_encoder", "cached", "remote", "remote_tei"]
)
def any_cross_encoder(request: pytest.FixtureRequest) -> BaseCrossEncoder:
    return request.getfixturevalue(request.param)


@pytest.fixture(params=["cross_encoder", "onnx_cross_encoder", "cached", "remote", "remote_tei"])
def our_cross_encoder(request: pytest.FixtureRequest) -> BaseCrossEncoder:
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="session")
def tokenizer(cross_encoder: TorchCrossEncoder) -> Any:
    """The real offline tokenizer, an object of its own."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(cross_encoder.model)


@pytest.fixture
def one_torch_thread() -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def tiny(tiny_checkpoint: str) -> TorchCrossEncoder:
    """A tiny cross encoder of the test's own, free to be hooked and changed."""
    return TorchCrossEncoder(model=tiny_checkpoint, device="cpu", normalize=False)


@pytest.fixture(scope="session")
def flag_folder(
    checkpoint: str, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[Family], str]:
    """Folder of a family's tiny checkpoint, saved when first asked for."""
    saved: dict[str, str] = {}

    def flag_folder(family: Family) -> str:
        if family.name not in saved:
            saved[family.name] = save_tiny(
                family, tmp_path_factory.mktemp(family.name) / "model", checkpoint
            )
        return saved[family.name]

    return flag_folder


@pytest.fixture
def make_flag(flag_folder: Callable[[Family], str]) -> Callable[..., FlagEmbeddingCrossEncoder]:
    def make_flag(family: Family, **fields: Any) -> FlagEmbeddingCrossEncoder:
        if "model" not in fields:
            fields["model"] = flag_folder(family)
        defaults = {
            "model_class": family.name,
            "device": "cpu",
            "normalize": False,
            "compute_score_kwargs": family.compute_score,
        }
        return FlagEmbeddingCrossEncoder(**{**defaults, **fields})

    return make_flag


@pytest.fixture
def flagembedding(flag_folder: Callable[[Family], str]) -> Callable[..., Any]:
    """FlagEmbedding's own class on the same checkpoint."""

    def flagembedding(family: Family, **arguments: Any) -> Any:
        import FlagEmbedding

        flag_class = getattr(FlagEmbedding, family.flag_class)
        return flag_class(flag_folder(family), devices="cpu", use_fp16=True, **arguments)

    return flagembedding


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder of the exports, of the test's own."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("LANGCHAIN_RERANK_CACHE", str(folder))
    return folder / "onnx"
