"""What reranking did to one question's passages, as HTML for notebooks and for the page."""

from __future__ import annotations

import math
from html import escape
from typing import TYPE_CHECKING

from langchain_rerank.reader import numbered_sentences
from langchain_rerank.retriever import RerankRetriever, rerankers_in
from langchain_rerank.scoring import score_pairs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langchain_core.cross_encoders import BaseCrossEncoder
    from langchain_core.documents import Document

    from langchain_rerank.chain import Citation

_ROW_HEIGHT = 84  # as in the style
_CONTEXT = 60
_LONGEST = 300

# Up and down differ by sign, words and dashes as well as by colour. Text takes the page's
# colour, so that dark pages stay dark.
STYLE = """<style>
.rr-models{display:flex;flex-wrap:wrap;gap:20px}
.rr-model{flex:1 1 320px;min-width:0}
.rr{container-type:inline-size;font:14px/18px system-ui,sans-serif;text-align:left}
.rr .rr-columns{display:grid;grid-template-columns:minmax(0,2fr) 90px minmax(0,3fr)}
.rr ol{list-style:none;margin:0;padding:0}
.rr li{box-sizing:border-box;height:84px;margin:0;padding:4px 6px;overflow:hidden;
 border-bottom:1px solid #8886}
.rr li:target{outline:2px solid #0072b2;outline-offset:-2px}
.rr p{display:-webkit-box;-webkit-box-orient:vertical;-webkit-line-clamp:3;overflow:hidden;
 margin:2px 0 0;font:inherit}
.rr .rr-head{display:flex;gap:8px;white-space:nowrap;overflow:hidden}
.rr .rr-head i{overflow:hidden;text-overflow:ellipsis;opacity:.8}
.rr .rr-bar{flex:0 0 60px;height:10px;margin-top:4px;border:1px solid #8888}
.rr .rr-bar b{display:block;height:100%;background:#0072b2}
.rr .rr-cut{opacity:.6}
.rr svg{width:100%;height:100%}
.rr mark{background:#ffe08a;color:#222}
.rr .rr-up{color:#0072b2;stroke:#0072b2;font-weight:600}
.rr .rr-down{color:#b34700;stroke:#b34700;stroke-dasharray:6 4}
.rr .rr-same{stroke:#888;stroke-dasharray:1 3}
@media (prefers-color-scheme:dark){.rr .rr-up{color:#56b4e9;stroke:#56b4e9}
 .rr .rr-down{color:#f0904d;stroke:#f0904d}}
@container (max-width:620px){
 .rr .rr-columns{grid-template-columns:30px 44px minmax(0,1fr)}
 .rr .rr-columns>b{white-space:nowrap}
 .rr .rr-before p,.rr .rr-before i{display:none}
 .rr .rr-head{gap:5px}.rr .rr-bar{flex-basis:36px}}
</style>"""


class HtmlView(str):
    """HTML that a notebook shows."""

    __slots__ = ()

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
    documents = retriever.invoke(question, k=retriever.fetch_k)
    best = best_sentences(rerankers[-1].cross_encoder, question, documents[:rows])
    return HtmlView(STYLE + ranking_html(documents, best, kept=retriever.k, rows=rows))


def best_sentences(
    cross_encoder: BaseCrossEncoder, question: str, documents: Sequence[Document]
) -> list[str]:
    """The sentence of each document that a reader would quote; "" where it has none."""
    parts = [list(numbered_sentences([document], "en")) for document in documents]
    scores = iter(score_pairs(cross_encoder, [(question, one) for part in parts for one in part]))
    scored = [[(next(scores), one) for one in part] for part in parts]
    return [max(part, default=(0, ""))[1] for part in scored]


def ranking_html(
    documents: Sequence[Document], best: Sequence[str], *, kept: int, rows: int, anchor: str = "rr"
) -> str:
    """Two columns, the first stage's order and the new one, with a line for each passage.

    Args:
        documents: All candidates in their new order, as a `Reranker` gives them.
        best: The best sentence of each that is shown.
        kept: How many of them are kept; the others are paler.
        rows: How many of each order to show.
        anchor: Start of the passages' ids, to which citations link: `rr-1` is the best one.
    """
    rows = min(rows, len(documents))
    order = sorted(range(len(documents)), key=lambda i: documents[i].metadata["retrieval_rank"])
    places = {new: old for old, new in enumerate(order)}
    before = "".join(_before(documents[new]) for new in order[:rows])
    after, lines = "", ""
    for new in sorted({*range(rows), *order[:rows]}):
        move = _move(places[new], new)
        start, end = ((min(place, rows - 0.5) + 0.5) * _ROW_HEIGHT for place in (places[new], new))
        lines += f'<line class="rr-{move}" x1="0" y1="{start:g}" x2="100%" y2="{end:g}"/>'
        if new < rows:
            pale = "" if new < kept else ' class="rr-cut"'
            head = _head(new, documents[new], move, share=_share(documents, new))
            text = f"<p>{_marked(documents[new], best[new])}</p>"
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


def _before(document: Document) -> str:
    text = escape(" ".join(document.page_content.split())[:_LONGEST])
    rank = document.metadata["retrieval_rank"]
    head = f'<div class="rr-head"><b>{rank}</b> <i>{source_of(document)}</i></div>'
    return f"<li>{head}<p>{text}</p></li>"


def _move(old: int, new: int) -> str:
    return "up" if new < old else "down" if new > old else "same"


def _head(new: int, document: Document, move: str, share: float) -> str:
    sign = {"up": "▲", "down": "▼", "same": "="}[move]
    score = document.metadata.get("relevance_score")
    number = "no score" if score is None else f"{score:.3f}"
    return (
        f'<div class="rr-head"><b>[{new + 1}]</b>'
        f'<span class="rr-{move}">{sign} was {document.metadata["retrieval_rank"]}</span>'
        f'<span class="rr-bar"><b style="width:{share:.0%}"></b></span>{number}'
        f"<i>{source_of(document)}</i></div>"
    )


def _share(documents: Sequence[Document], position: int) -> float:
    """A score as a share of a bar: as it is if all are within 0–1, else by a sigmoid."""
    scores = [document.metadata.get("relevance_score", 0.0) for document in documents]
    score: float = scores[position]
    return score if all(0 <= one <= 1 for one in scores) else 1 / (1 + math.exp(-max(score, -99)))


def source_of(document: Document) -> str:
    """Where a document is from, escaped."""
    names = (document.metadata.get(name) for name in ("source", "title", "url"))
    return escape(str(next(filter(None, [*names, document.id]), "")))


def _marked(document: Document, best: str) -> str:
    text = " ".join(numbered_sentences([document], "en"))
    before, found, after = text.partition(best) if best else (text[:_LONGEST], "", "")
    if found and len(before) > _CONTEXT:
        before = f"… {before[-_CONTEXT:].partition(' ')[2]}"
    return f"{escape(before)}<mark>{escape(found)}</mark>{escape(after[:_LONGEST])}"
