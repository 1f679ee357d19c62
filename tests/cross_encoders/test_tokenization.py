"""From texts to windows of token ids, with the real offline tokenizer."""

from __future__ import annotations

import itertools
import random
from pydoc_data.topics import topics

import pytest

from langchain_rerank.cross_encoders.tokenization import (
    Windows,
    check_pairs,
    encode,
    truncate_queries,
)

QUERY = "what does the with statement do"
LONG = topics["typesseq"]
MAX_LENGTH = 64
PAIRS = [
    (query, passage)
    for query in (QUERY, "a", "what " * 30)
    for passage in (LONG, "", "short", topics["with"], "x", topics["lambda"] * 3)
]
random.Random(3).shuffle(PAIRS)  # noqa: S311  # the order is no secret


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([("q", "p"), ("q", None)], "the passage of pair 1 must be a str, got NoneType"),
        ([(7, "p")], "the query of pair 0 must be a str, got int"),
        ([("q", "p"), ("q", b"p")], "the passage of pair 1 must be a str, got bytes"),
        ([("q", "p"), ("q", "p"), ("q",)], "pair 2 must be"),
        ([("q", "p", "r")], "pair 0 must be"),
        ([("q", "p"), "qp"], "pair 1 must be"),
        ([("q", "p"), None], "pair 1 must be"),
        ([{"query": "q", "passage": "p"}], "pair 0 must be"),
        ([("x" * 1_000_000,)], "^.{,200}$"),
    ],
)
def test_a_wrong_pair_is_named_by_its_position(pairs, message):
    with pytest.raises(TypeError, match=message):
        check_pairs(pairs)
    check_pairs([("q", "p"), ["q", "p"], ("", "")])


def test_only_long_queries_are_cut_and_read_as_the_first_tokens_of_the_whole(tokenizer):
    def ids(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    long, exact = "how many people live in berlin today", "  How  many people?  "
    assert len(ids(exact)) == 4
    cut = ["how many people live", "who", exact, "how many people live"]
    assert truncate_queries(tokenizer, [long, "who", exact, long], 4) == cut
    query = topics["atom-literals"]
    for limit in (1, 5, 40, 200):
        (cut,) = truncate_queries(tokenizer, [query], limit)
        assert ids(cut) == ids(query)[:limit]


def test_what_is_cut_is_counted_and_what_is_short_is_the_same_in_windows(tokenizer):
    windows = encode(tokenizer, [(QUERY, LONG), (QUERY, "short"), (QUERY, LONG)], MAX_LENGTH)
    assert windows.truncated == 2
    assert windows.owners == [0, 1, 2]
    assert [len(row) for row in windows.features["input_ids"]][::2] == [MAX_LENGTH] * 2
    pairs = [(QUERY, "short"), (QUERY, ""), ("", "short"), ("", ""), (QUERY, "\n ")]
    first, whole = (encode(tokenizer, pairs, MAX_LENGTH, whole=whole) for whole in (False, True))
    assert dict(first.features) == dict(whole.features)
    assert whole.owners == first.owners


def test_windows_cover_a_long_passage_overlap_and_carry_their_marks(tokenizer):
    windows = encode(tokenizer, [(QUERY, LONG)], MAX_LENGTH, whole=True)
    rows, head = windows.features["input_ids"], tokenizer(QUERY)["input_ids"]
    assert all(row[: len(head)] == head and row[-1] == tokenizer.sep_token_id for row in rows)
    types = [[0] * len(head) + [1] * (len(row) - len(head)) for row in rows]
    assert windows.features["token_type_ids"] == types
    parts = [row[len(head) : -1] for row in rows]
    room = MAX_LENGTH - len(head) - 1
    overlap = room // 4
    joined = parts[0] + [token for part in parts[1:] for token in part[overlap:]]
    assert joined == tokenizer(LONG, add_special_tokens=False)["input_ids"]
    assert all(len(part) == room for part in parts[:-1])
    assert all(a[-overlap:] == b[:overlap] for a, b in itertools.pairwise(parts))
    assert windows.truncated == 0


def by_owner(windows: Windows) -> list[list[tuple[list[int], ...]]]:
    rows = list(zip(windows.owners, *windows.features.values(), strict=True))
    assert windows.owners == sorted(windows.owners)
    return [[row for own, *row in rows if own == owner] for owner in dict.fromkeys(windows.owners)]


def test_a_pairs_windows_do_not_depend_on_its_neighbours(tokenizer):
    together = by_owner(encode(tokenizer, PAIRS, MAX_LENGTH, whole=True))
    alone = [by_owner(encode(tokenizer, [pair], MAX_LENGTH, whole=True))[0] for pair in PAIRS]
    assert together == alone
