"""Real texts out of the language reference that comes with Python."""

from __future__ import annotations

import math
import random
from pydoc_data.topics import topics

BERLIN = "How many people live in Berlin?"
POPULATION = (
    "Berlin had a population of 3,520,031 registered inhabitants in an area of "
    "891.82 square kilometers."
)
MUSEUMS = "Berlin is well known for its museums."
# Over 3,000 tokens.
FILLER = topics["typesmapping"][:12500]
QUERIES = (
    "how does the with statement work",
    "What is the difference between a list and a tuple?",
    "operator precedence",
    # Over the query's share of a pair of 512 tokens.
    "how are exceptions handled in nested functions " * 60,
)


def real_pairs(count: int) -> list[tuple[str, str]]:
    """Pairs whose passages have 5–3000 characters, short ones more often than long ones."""
    generator = random.Random(20)  # noqa: S311  # the choice of passages is no secret
    corpus = "\n".join(topics.values())
    pairs = []
    for number in range(count):
        size = int(math.exp(generator.uniform(math.log(5), math.log(3000))))
        start = generator.randrange(len(corpus) - size)
        query = QUERIES[3] if number % 40 == 0 else QUERIES[generator.randrange(3)]
        # Never blank: FlagEmbedding's trip through text leaves a blank passage out of the pair.
        pairs.append((query, corpus[start : start + size].strip() or "blank"))
    return pairs
