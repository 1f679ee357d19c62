"""What reranking did to one question's passages, as HTML for notebooks and for the page."""

from __future__ import annotations

import math
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from langchain_rerank.cross_encoders.batching import sigmoid
from langchain_rerank.ranking import as_logits
from langchain_rerank.reader import numbered_sentences
from langchain_rerank.retriever import RerankRetriever, rerankers_in
from langchain_rerank.scoring import score_pairs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langchain_core.cross_encoders import BaseCrossEncoder
    from langchain_core.documents import Document

    from langchain_rerank.chain import Citation

_ROW_HEIGHT = 84  # as in view.css
_CONTEXT = 60
_LONGEST = 300

STYLE = f"<style>{Path(__file__).with_name('view.css').read_text(encoding='utf-8')}</style>"


class HtmlView(str):
    """HTML that a notebook shows."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<HTML of {len(self):,} characters>"

    def _repr_html_(self) -> str:
        return str(self)


def show_reranking(retriever: RerankRetriever, question: str, *, rows: int = 10) -> HtmlView:
    """Show a question's passages before and after reranking, with scores and best sentences.

    Args:
        retriever: From `create_rerank_retriever`, with a `Reranker`.
        question: What to retrieve.
        rows: How many passages of each order to show.

    Returns:
        HTML without scripts, which a notebook shows as the last value of a cell.

    Raises:
        TypeError: The retriever is another.
        ValueError: The question is blank, or `rows` is not positive.
    """
    rerankers = rerankers_in(getattr(retriever, "base_compressor", None))
    if not isinstance(retriever, RerankRetriever) or not rerankers:
        msg = f"expected a RerankRetriever with a Reranker, got {type(retriever).__name__}"
        raise TypeError(msg)
    if rows <= 0:
        msg = f"rows must be > 0, got {rows}"
        raise ValueError(msg)
    last = rerankers[-1]
    if retriever.base_compressor is last:
        # What is below the threshold is shown as such.
        all_kept = {"base_compressor": last.model_copy(update={"score_threshold": None})}
        retriever = retriever.model_copy(update=all_kept)
    documents, above = by_threshold(
        retriever.invoke(question, k=retriever.fetch_k), last.score_threshold
    )
    best = best_sentences(last.model, question, documents[:rows])
    kept = min(retriever.k or last.top_n or rows, above)
    return HtmlView(STYLE + ranking_html(documents, best, kept=kept, above=above, rows=rows))


def by_threshold(
    documents: Sequence[Document], threshold: float | None
) -> tuple[list[Document], int]:
    """Put reranked documents below a threshold behind the others, which are as many as returned."""
    if threshold is None:
        return list(documents), len(documents)
    scores = [document.metadata.get("relevance_score", -math.inf) for document in documents]
    order = sorted(range(len(documents)), key=lambda new: scores[new] < threshold)
    return [documents[new] for new in order], sum(score >= threshold for score in scores)


def best_sentences(
    cross_encoder: BaseCrossEncoder, question: str, documents: Sequence[Document]
) -> list[str]:
    """The sentence of each document that a reader would quote; "" where it has none."""
    parts = [list(numbered_sentences([document], "en")) for document in documents]
    scores = iter(score_pairs(cross_encoder, [(question, one) for part in parts for one in part]))
    scored = [[(next(scores), one) for one in part] for part in parts]
    return [max(part, default=(0, ""))[1] for part in scored]


def ranking_html(  # noqa: PLR0913  # all but two are counts and names
    documents: Sequence[Document],
    best: Sequence[str],
    *,
    kept: int,
    above: int,
    rows: int,
    anchor: str = "rr",
) -> str:
    """Two columns, the first stage's order and the new one, with a line for each passage.

    Args:
        documents: All candidates in their new order, as `by_threshold` gives them.
        best: The best sentence of each that is shown.
        kept: How many of them are kept; the others are paler.
        above: How many of them are not below the threshold.
        rows: How many of each order to show.
        anchor: Start of the passages' ids, to which citations link: `rr-1` is the best one.
    """
    rows = min(rows, len(documents))
    order = sorted(range(len(documents)), key=lambda i: documents[i].metadata["retrieval_rank"])
    places = {new: old for old, new in enumerate(order)}
    before = "".join(_before(documents[new]) for new in order[:rows])
    scores = [document.metadata.get("relevance_score", 0.0) for document in documents]
    shares = sigmoid(np.array(as_logits(scores)))
    after, lines = "", ""
    for new in sorted({*range(rows), *order[:rows]}):
        old = places[new]
        move = "up" if new < old else "down" if new > old else "same"
        start, end = ((min(place, rows - 0.5) + 0.5) * _ROW_HEIGHT for place in (old, new))
        lines += f'<line class="rr-{move}" x1="0" y1="{start:g}" x2="100%" y2="{end:g}"/>'
        if new < rows:
            pale = "" if new < kept else ' class="rr-cut"'
            below = "" if new < above else "<b>Below the threshold:</b> "
            head = _head(new, documents[new], move, shares[new])
            text = f"<p>{below}{_marked(documents[new], best[new])}</p>"
            after += f'<li id="{anchor}-{new + 1}"{pale}>{head}{text}</li>'
    height = rows * _ROW_HEIGHT
    return (
        f'<div class="rr"><div class="rr-columns"><b>Before</b><span></span><b>Reranked</b>'
        f'<ol class="rr-before">{before}</ol>'
        f'<svg style="height:{height}px" role="img" aria-label="lines from old to new places" '
        f'stroke-width="2">{lines}</svg><ol>{after}</ol></div></div>'
    )


def answer_html(answer: str, citations: Sequence[Citation], anchor: str = "rr") -> str:
    """The answer, with links from its citations to the passages."""
    text = escape(answer)
    sources = ""
    for number in sorted(citation["number"] for citation in citations):
        link = f'<a href="#{anchor}-{number}">[{number}]</a>'
        text = text.replace(f"[{number}]", link)
        sources += f" {link}"
    return f'<div class="rr">{text}' + (f"<br>Cited:{sources}" if sources else "") + "</div>"


def source_of(document: Document) -> str:
    """Where a document is from, as plain text."""
    names = (document.metadata.get(name) for name in ("source", "title", "url"))
    return str(next(filter(None, [*names, document.id]), ""))


def _before(document: Document) -> str:
    text = escape(" ".join(document.page_content.split())[:_LONGEST])
    rank = document.metadata["retrieval_rank"]
    head = f'<div class="rr-head"><b>{rank}</b> <i>{escape(source_of(document))}</i></div>'
    return f"<li>{head}<p>{text}</p></li>"


def _head(new: int, document: Document, move: str, share: float) -> str:
    sign = {"up": "▲", "down": "▼", "same": "="}[move]
    score = document.metadata.get("relevance_score")
    number = "no score" if score is None else f"{score:.3f}"
    return (
        f'<div class="rr-head"><b>[{new + 1}]</b>'
        f'<span class="rr-{move}">{sign} was {document.metadata["retrieval_rank"]}</span>'
        f'<span class="rr-bar"><b style="width:{share:.0%}"></b></span>{number}'
        f"<i>{escape(source_of(document))}</i></div>"
    )


def _marked(document: Document, best: str) -> str:
    text = " ".join(numbered_sentences([document], "en"))
    before, found, after = text.partition(best) if best else (text[:_LONGEST], "", "")
    if found and len(before) > _CONTEXT:
        before = f"… {before[-_CONTEXT:].partition(' ')[2]}"
    return f"{escape(before)}<mark>{escape(found)}</mark>{escape(after[:_LONGEST])}"
