"""The view of one question: both orders, lines, scores, best sentences; its look is test_ui's."""

from __future__ import annotations

import re

import pytest
from langchain_core.documents import Document

from langchain_rerank import Reranker, create_rerank_retriever
from langchain_rerank.view import answer_html, show_reranking
from tests.fakes import RecordingRetriever, WordOverlapCrossEncoder

TEXTS = ["It rains. <script>x</script>", "Berlin is large. People live in Berlin.", "live", "Soup."]
DOCUMENTS = [Document(text, metadata={"source": f"<{n}>"}) for n, text in enumerate(TEXTS)]


def shown(threshold=None, **settings):
    first_stage = RecordingRetriever(documents=DOCUMENTS)
    reranker = Reranker(model=WordOverlapCrossEncoder(), score_threshold=threshold)
    retriever = create_rerank_retriever(first_stage, reranker=reranker, k=1)
    return show_reranking(retriever, "people live in berlin.", **settings)


def test_both_orders_lines_scores_and_best_sentences_without_markup_of_the_texts():
    html = shown()._repr_html_()
    assert re.findall(r"(?:▲|▼|=) was \d", html) == ["▲ was 2", "▲ was 3", "▼ was 1", "= was 4"]
    assert re.findall(r'line class="rr-(\w+)"', html) == ["up", "up", "down", "same"]
    assert re.findall(r"</span>(\d\.\d+)", html) == ["1.000", "0.250", "0.000", "0.000"]
    assert "<mark>People live in Berlin.</mark>" in html
    assert html.count('class="rr-cut"') == 3
    assert "<script" not in html
    assert "<0>" not in html


def test_what_is_below_the_threshold_stays_in_both_orders_and_says_so():
    html = shown(threshold=0.2)._repr_html_()
    assert re.findall(r"(?:▲|▼|=) was \d", html) == ["▲ was 2", "▲ was 3", "▼ was 1", "= was 4"]
    assert html.count('<div class="rr-head"><b>') == 8
    rows = html.partition("<ol>")[2].split("</li>")
    assert ["Below the threshold" in row for row in rows] == [False, False, True, True, False]


def test_lines_of_passages_that_leave_or_come_end_at_the_edge():
    html = shown(rows=1)
    assert re.findall(r'y1="(\d+)" x2="100%" y2="(\d+)"', html) == [("84", "42"), ("42", "84")]


def test_citations_of_the_answer_are_links():
    html = answer_html("Many & more [2].", [{"number": 2, "document": DOCUMENTS[1]}])
    assert "Many &amp; more " in html
    assert html.count('<a href="#rr-2">[2]</a>') == 2


def test_another_retriever_or_no_row_says_what_was_expected():
    with pytest.raises(TypeError, match="RerankRetriever with a Reranker, got RecordingRetriever"):
        show_reranking(RecordingRetriever(documents=[]), "why")
    with pytest.raises(ValueError, match="rows must be > 0, got 0"):
        shown(rows=0)
