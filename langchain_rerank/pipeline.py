"""How many documents compressors keep, alone or in a pipeline, and the rerankers among them."""

from __future__ import annotations

from typing import Any

from langchain_classic.retrievers.document_compressors import DocumentCompressorPipeline
from langchain_core.documents import BaseDocumentCompressor

from langchain_rerank.compressor import Reranker

# Fields by which LangChain's document compressors say how many documents they keep at most.
_LIMITS = ("top_n", "top_k", "k")
_DEFAULT_K = 5


def rerankers_in(compressor: object) -> list[Reranker]:
    """Find the `Reranker`s of a compressor: itself, or those of a pipeline."""
    if isinstance(compressor, DocumentCompressorPipeline):
        return [one for step in compressor.transformers for one in rerankers_in(step)]
    return [compressor] if isinstance(compressor, Reranker) else []


def _limiting(step: object) -> tuple[BaseDocumentCompressor, str] | None:
    """Find the compressor that says last how many documents are kept, and its field."""
    if isinstance(step, DocumentCompressorPipeline):
        found = (_limiting(one) for one in reversed(step.transformers))
        return next((one for one in found if one), None)
    if not isinstance(step, BaseDocumentCompressor):
        return None
    fields = (name for name in _LIMITS if name in type(step).model_fields)
    return next(((step, name) for name in fields), None)


def default_k(fields: dict[str, Any]) -> int:
    """Settle the `k` of a retriever that was given none, from its `base_compressor`."""
    # Fields that were wrong are not there; older releases of pydantic ask all the same.
    fetch_k: int = fields.get("fetch_k", _DEFAULT_K)
    limiting = _limiting(fields.get("base_compressor"))
    if limiting is None:
        return min(_DEFAULT_K, fetch_k)
    compressor, name = limiting
    own: int = getattr(compressor, name) or fetch_k
    return own if name in compressor.model_fields_set else min(own, fetch_k)


def keeping(step: Any, k: int, instruction: str | None = None, *, at_least: bool = False) -> Any:
    """Copy a compressor so that it keeps `k` documents, a pipeline so that its last step does.

    Earlier steps keep what they kept, if that is enough for the last one.
    """
    if isinstance(step, DocumentCompressorPipeline):
        steps: list[Any] = []
        for one in reversed(step.transformers):
            steps.insert(0, keeping(one, k, instruction, at_least=at_least))
            at_least = at_least or _limiting(one) is not None
        return step.model_copy(update={"transformers": steps})
    limiting = _limiting(step)
    if limiting is None:
        return step
    _, name = limiting
    own = getattr(step, name)
    update: dict[str, Any] = {name: k if not at_least else own and max(own, k)}
    if isinstance(step, Reranker) and instruction is not None:
        update["instruction"] = instruction
    return step.model_copy(update=update)
