"""An extractive reader: the answer is the sentences of the passages that answer best."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

import sentencex
from langchain_core.runnables import Runnable, RunnableConfig
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


class Quote(TypedDict):
    """A sentence of a passage, the passage's number from 1, and the cross encoder's score."""

    sentence: str
    number: int
    score: float


class ExtractiveReader(Runnable[dict[str, Any], list[Quote]]):
    """Answers with one to three sentences of the passages.

    The second half of the field's retriever–reader pair, for where no chat model is at hand: the
    cross encoder scores every sentence of the passages against the question. It quotes and never
    invents, and it answers only what a sentence says as it stands.

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
        self, cross_encoder: BaseCrossEncoder, *, max_sentences: int = 3, language: str = "en"
    ) -> None:
        """Store the settings.

        Args:
            cross_encoder: Scores the sentences; as a rule the one that ranked the passages.
            max_sentences: Most sentences of an answer.
            language: ISO 639 code by whose rules sentences are split.

        Raises:
            ValueError: `max_sentences` is not positive.
        """
        if max_sentences <= 0:
            msg = f"max_sentences must be > 0, got {max_sentences}"
            raise ValueError(msg)
        self._cross_encoder = cross_encoder
        self._max_sentences = max_sentences
        self._language = language

    def invoke(
        self, input: dict[str, Any], config: RunnableConfig | None = None, **_: Any
    ) -> list[Quote]:
        """Find the best sentences.

        Args:
            input: `{"question": str, "context": list[Document]}`.
            config: As for any runnable.

        Returns:
            Quotes, best first; none if the documents hold no sentence.

        Raises:
            ScoringError: The cross encoder failed, or gave a wrong number of scores.
        """
        return self._call_with_config(self._read, input, config)

    async def ainvoke(
        self, input: dict[str, Any], config: RunnableConfig | None = None, **_: Any
    ) -> list[Quote]:
        """Find the best sentences without blocking the event loop; see `invoke`."""

        async def read(given: dict[str, Any]) -> list[Quote]:
            return await in_thread(self._read, given)

        return await self._acall_with_config(read, input, config)

    def _read(self, given: dict[str, Any]) -> list[Quote]:
        sentences = list(numbered_sentences(given["context"], self._language).items())
        question = well_formed(str(given["question"]))
        pairs = [(question, sentence) for sentence, _ in sentences]
        scores = score_pairs(self._cross_encoder, pairs)
        return [
            Quote(sentence=sentences[i][0], number=sentences[i][1], score=scores[i])
            for i in close_to_best(scores, self._max_sentences)
        ]


def numbered_sentences(documents: Sequence[Document], language: str) -> dict[str, int]:
    """Split documents into sentences, each with the number of the first document that has it.

    Args:
        documents: Numbered from 1.
        language: ISO 639 code.

    Returns:
        Document number by sentence. Line breaks within a sentence are spaces, and footnote marks
        such as "[2]", which a reader would take for citations, are left out.
    """
    numbered: dict[str, int] = {}
    for number, document in enumerate(documents, start=1):
        text = strip_footnotes(well_formed(document.page_content))
        for paragraph in re.split(r"\n\s*\n", text):
            for sentence in sentencex.segment(language, " ".join(paragraph.split())):
                if sentence.strip():
                    numbered.setdefault(sentence.strip(), number)
    return numbered


def close_to_best(scores: Sequence[float], limit: int) -> list[int]:
    """Choose the best score and those close to it.

    Args:
        scores: Logits; if all lie within 0–1, they are taken for sigmoids and mapped back.
        limit: Most positions to return.

    Returns:
        Positions in `scores`, best first.
    """
    known = [position for position, score in enumerate(scores) if not math.isnan(score)]
    logits = as_logits([scores[position] for position in known])
    order = best_first(logits)[:limit]
    return [known[i] for i in order if logits[i] >= logits[order[0]] - _MARGIN]


def reader_of(retriever: Runnable[str, list[Document]]) -> ExtractiveReader:
    """Make a reader of the cross encoder that ranks a retriever's documents, whatever wraps it.

    Raises:
        ValueError: There is none.
    """
    for part in runnables_in(retriever):
        if rerankers := rerankers_in(getattr(part, "base_compressor", None)):
            return ExtractiveReader(rerankers[-1].cross_encoder)
    msg = "without llm, the retriever must be a RerankRetriever with a Reranker, to read with"
    raise ValueError(msg)
