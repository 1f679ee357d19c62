"""From texts to windows of token ids, with the real offline tokenizer."""

from __future__ import annotations

import itertools
import random
from pydoc_data.topics import topics

import pytest

from langchain_rerank.cross_encoders.tokenization import (
    check_pairs,
    encode,
    text_windows,
    truncate_queries,
)

QUERY = "what does the with statement do"
LONG = topics["typesseq"]
MAX_LENGTH = 64


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
        ([5], "pair 0 must be"),
        ([{"query": "q", "passage": "p"}], "pair 0 must be"),
    ],
)
def test_a_wrong_pair_is_named_by_its_position(pairs, message):
    with pytest.raises(TypeError, match=message):
        check_pairs(pairs)


def test_a_huge_wrong_pair_is_not_printed_whole():
    with pytest.raises(TypeError) as raised:
        check_pairs([("x" * 1_000_000,)])
    assert len(str(raised.value)) < 200


def test_pairs_as_tuples_and_as_lists_are_right():
    check_pairs([("q", "p"), ["q", "p"], ("", "")])


def test_long_queries_are_cut_and_short_ones_left_alone(tokenizer):
    long, short = "how many people live in berlin today", "who"
    cut = truncate_queries(tokenizer, [long, short, long], 4)
    assert cut == ["how many people live", "who", "how many people live"]


def test_a_query_of_exactly_the_limit_is_not_cut(tokenizer):
    text = "  How  many people?  "
    assert len(tokenizer(text, add_special_tokens=False)["input_ids"]) == 4
    assert truncate_queries(tokenizer, [text], 4) == [text]


def test_a_cut_query_reads_as_the_first_tokens_of_the_whole(tokenizer):
    query = topics["atom-literals"]
    whole = tokenizer(query, add_special_tokens=False)["input_ids"]
    for limit in (1, 5, 40, 200):
        (cut,) = truncate_queries(tokenizer, [query], limit)
        assert tokenizer(cut, add_special_tokens=False)["input_ids"] == whole[:limit]


def test_first_counts_the_passages_it_cuts(tokenizer):
    windows = encode(tokenizer, [(QUERY, LONG), (QUERY, "short"), (QUERY, LONG)], MAX_LENGTH)
    assert windows.truncated == 2
    assert windows.owners == [0, 1, 2]
    assert [len(row) for row in windows.features["input_ids"]][::2] == [MAX_LENGTH] * 2


def passage_part(tokenizer, row: list[int], query: str) -> list[int]:
    """Strip "[CLS] query [SEP]" and the last "[SEP]"."""
    head = len(tokenizer(query)["input_ids"])
    assert row[:head] == tokenizer(query)["input_ids"]
    assert row[-1] == tokenizer.sep_token_id
    return row[head:-1]


def test_windows_cover_a_long_passage_and_overlap(tokenizer):
    windows = encode(tokenizer, [(QUERY, LONG)], MAX_LENGTH, whole=True)
    rows = windows.features["input_ids"]
    parts = [passage_part(tokenizer, row, QUERY) for row in rows]
    whole = tokenizer(LONG, add_special_tokens=False)["input_ids"]
    room = MAX_LENGTH - len(tokenizer(QUERY)["input_ids"]) - 1
    overlap = room // 4

    joined = parts[0] + [token for part in parts[1:] for token in part[overlap:]]
    assert joined == whole
    assert all(len(part) == room for part in parts[:-1])
    assert all(a[-overlap:] == b[:overlap] for a, b in itertools.pairwise(parts))
    assert max(map(len, rows)) == MAX_LENGTH
    assert windows.truncated == 0


def test_every_window_carries_query_and_passage_marks(tokenizer):
    windows = encode(tokenizer, [(QUERY, LONG)], MAX_LENGTH, whole=True)
    head = len(tokenizer(QUERY)["input_ids"])
    for ids, types in zip(
        windows.features["input_ids"], windows.features["token_type_ids"], strict=True
    ):
        assert types == [0] * head + [1] * (len(ids) - head)


def some_pairs() -> list[tuple[str, str]]:
    generator = random.Random(3)  # noqa: S311  # which passages are drawn is no secret
    passages = [LONG, "", "short", topics["with"], "x", topics["lambda"] * 3]
    queries = [QUERY, "a", "what " * 30]
    pairs = [(query, passage) for query in queries for passage in passages]
    generator.shuffle(pairs)
    return pairs


def rows_by_owner(windows) -> dict[int, list[tuple[list[int], ...]]]:
    rows: dict[int, list[tuple[list[int], ...]]] = {}
    for owner, *row in zip(windows.owners, *windows.features.values(), strict=True):
        rows.setdefault(owner, []).append(tuple(row))
    return rows


def test_a_pairs_windows_do_not_depend_on_its_neighbours(tokenizer):
    pairs = some_pairs()
    together = rows_by_owner(encode(tokenizer, pairs, MAX_LENGTH, whole=True))
    for owner, pair in enumerate(pairs):
        alone = rows_by_owner(encode(tokenizer, [pair], MAX_LENGTH, whole=True))
        assert together[owner] == alone[0]


def test_owners_ascend_without_gaps(tokenizer):
    pairs = some_pairs()
    owners = encode(tokenizer, pairs, MAX_LENGTH, whole=True).owners
    assert owners == sorted(owners)
    assert set(owners) == set(range(len(pairs)))


def test_short_passages_are_the_same_input_however_long_ones_are_treated(tokenizer):
    pairs = [(QUERY, "short"), (QUERY, ""), ("", "short"), ("", ""), (QUERY, "\n ")]
    first = encode(tokenizer, pairs, MAX_LENGTH)
    windows = encode(tokenizer, pairs, MAX_LENGTH, whole=True)
    assert dict(first.features) == dict(windows.features)
    assert windows.owners == first.owners


def test_text_windows_cover_a_long_passage_in_order(tokenizer):
    windows, owners = text_windows(tokenizer, [(QUERY, LONG)], MAX_LENGTH)
    assert owners == [0] * len(windows)
    assert {query for query, _ in windows} == {QUERY}
    reached = 0
    for _, text in windows:
        start = LONG.index(text, max(0, reached - len(text)))
        assert not LONG[reached:start].strip(), "a gap between two windows"
        reached = start + len(text)
    assert not LONG[reached:].strip(), "the end is missing"


def test_text_windows_fit_beside_the_query(tokenizer):
    room = MAX_LENGTH - len(tokenizer(QUERY, add_special_tokens=False)["input_ids"])
    windows, _ = text_windows(tokenizer, [(QUERY, LONG)], MAX_LENGTH)
    sizes = [len(tokenizer(text, add_special_tokens=False)["input_ids"]) for _, text in windows]
    # A window that starts inside a word may spell its rest with a token or two more.
    assert max(sizes) <= room + 2
    assert min(sizes[:-1]) >= room - 2


def test_text_windows_of_a_pair_do_not_depend_on_neighbours(tokenizer):
    pairs = some_pairs()
    windows, owners = text_windows(tokenizer, pairs, MAX_LENGTH)
    assert owners == sorted(owners)
    for owner, pair in enumerate(pairs):
        alone, _ = text_windows(tokenizer, [pair], MAX_LENGTH)
        assert [
            window for window, own in zip(windows, owners, strict=True) if own == owner
        ] == alone


def test_text_windows_leave_short_and_empty_passages_alone(tokenizer):
    pairs = [(QUERY, "A short passage."), (QUERY, ""), (QUERY, "🙂 \u200fשלם")]
    assert text_windows(tokenizer, pairs, MAX_LENGTH) == (pairs, [0, 1, 2])


def test_tokens_that_the_model_read_are_counted_without_padding(tiny):
    pairs = [("a", "b"), ("a", "b c d e f")]
    tiny.score(pairs)
    assert tiny.tokens_scored == 5 + 9
    tiny.score(pairs[:1])
    assert tiny.tokens_scored == 5 + 9 + 5
