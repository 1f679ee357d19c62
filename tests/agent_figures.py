"""What reranking does to an agent's search results, by TREC DL 2020: README's figures.

By hand: `TREC_DL20=FOLDER python -m tests.agent_figures`. The folder is in BEIR's layout, with
`qrels/full.tsv` and a first stage's run in `runs/bm25.trec`. Each question is one tool call of a
real agent, whose scripted model searches by the question's own words.
"""

from __future__ import annotations

import json
import os
import sys
from collections import defaultdict
from pathlib import Path
from statistics import fmean

from langchain.agents import create_agent
from langchain_core.documents import Document
from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.tools import tool
from tokenizers import Tokenizer

from langchain_rerank import OnnxCrossEncoder, RerankMiddleware
from langchain_rerank.offline import offline_reranker
from tests.fakes import ScriptedChatModel

RETRIEVED, KEPT, RELEVANT = 30, 5, 2


def read_jsonl(path: Path) -> dict[str, str]:
    lines = map(json.loads, path.open(encoding="utf-8"))
    return {line["_id"]: line["text"] for line in lines}


def read_rows(path: Path) -> list[list[str]]:
    return [line.split() for line in path.read_text(encoding="utf-8").splitlines()]


def main() -> None:
    folder = Path(os.environ["TREC_DL20"])
    corpus, questions = read_jsonl(folder / "corpus.jsonl"), read_jsonl(folder / "queries.jsonl")
    relevant, runs = defaultdict(set), defaultdict(list)
    for query, document, grade in read_rows(folder / "qrels" / "full.tsv")[1:]:
        if int(grade) >= RELEVANT:
            relevant[query].add(document)
    for query, _, document, *_ in read_rows(folder / "runs" / "bm25.trec"):
        runs[query].append(Document(corpus[document], id=document))
    found = {questions[query]: documents[:RETRIEVED] for query, documents in runs.items()}

    @tool(response_format="content_and_artifact")
    def search(query: str) -> tuple[str, list[Document]]:
        """Search the passages."""
        texts = [f"Source: {one.id}\nContent: {one.page_content}" for one in found[query]]
        return "\n\n".join(texts), found[query]

    checkpoint = offline_reranker()
    tokenizer = Tokenizer.from_file(str(Path(checkpoint) / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    reranking = RerankMiddleware(OnnxCrossEncoder(model=checkpoint))
    sys.stdout.write("tool message     tokens    P@5\n")
    for name, middleware in (("as it came", []), ("reranked, best 5", [reranking])):
        tokens, precision = [], []
        for query in relevant:
            call = {"name": "search", "args": {"query": questions[query]}, "id": query}
            model = ScriptedChatModel(
                messages=iter([AIMessage("", tool_calls=[call]), AIMessage("")])
            )
            state = create_agent(model, [search], middleware=middleware).invoke(
                {"messages": questions[query]}
            )
            [message] = [one for one in state["messages"] if isinstance(one, ToolMessage)]
            tokens.append(len(tokenizer.encode(message.text, add_special_tokens=False)))
            hits = sum(one.id in relevant[query] for one in message.artifact[:KEPT])
            precision.append(hits / KEPT)
        sys.stdout.write(f"{name:16} {fmean(tokens):7,.0f} {fmean(precision):6.3f}\n")


if __name__ == "__main__":
    main()
