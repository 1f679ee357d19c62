# ruff: noqa: RUF001  # brackets and digits of other scripts are the subject
"""Reading a reply: what is thought, what is code, what is cited, and what a passage only notes."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from langchain_rerank.answers import (
    ThoughtFilter,
    cited_numbers,
    strip_footnotes,
    without_thoughts,
)

LONG = "word " * 2_000


def streamed(reply: str, size: int) -> str:
    thoughts = ThoughtFilter()
    pieces = [thoughts.feed(reply[at : at + size]) for at in range(0, len(reply), size)]
    return "".join([*pieces, thoughts.feed(last=True)])


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        ("<think>\nPerhaps [2].\n</think>\n\nMany [1].", "Many [1]."),
        ("<Reasoning>a</Reasoning>b", "b"),
        ("<seed:think>a</seed:think>b", "b"),
        ('<thought kind="long">a</thought>b', "b"),
        ("[THINK]a[/THINK]b", "b"),
        ("◁think▷a◁/think▷b", "b"),
        ("Let me see. <think>a</think>Many.", "Let me see. Many."),
        ("<think>a</think>b\n<think>c</think>d", "b\nd"),
        ("<think>a<think>b</think>c</think>d", "d"),
        ("<think>They write <think> tags.</think>d", "d"),
        ("<think>In `code</think>d", "d"),
        (f"<think>{LONG}</think>d", "d"),
        ("<think>cut off by the limit", ""),
        ("Many.\n <think>cut off", "Many.\n "),
        ("The <think> tag has no meaning in HTML.", "The <think> tag has no meaning in HTML."),
        ("`<think>` is no HTML, `</think>` neither.", "`<think>` is no HTML, `</think>` neither."),
        ("```html\n<think>a</think>\n```\nb", "```html\n<think>a</think>\n```\nb"),
        ("~~~\n<think>a\n~~~\n<think>b</think>c", "~~~\n<think>a\n~~~\nc"),
        ("```\n<think>not closed", "```\n<think>not closed"),
        ("One ` alone <think>a</think>b", "One ` alone b"),
        ("One ` alone\n\n<think>a`</think>b", "One ` alone\n\nb"),
        ("1 < 2 [THIS] <thin> [", "1 < 2 [THIS] <thin> ["),
    ],
)
def test_thoughts_go_and_code_stays_however_it_comes(reply, said):
    assert without_thoughts(reply) == said
    for size in (1, 2, 7):
        assert streamed(reply, size) == said


def test_a_thought_that_the_prompt_opened_ends_with_its_closing_tag():
    reply = "They mean [2].\n</think>\nMany [1]."
    assert without_thoughts(reply) == "Many [1]."
    # What has been given can't be taken back, but whoever reads the whole can tell.
    assert streamed(reply, 4) == reply


def test_pieces_are_given_as_soon_as_they_are_certain():
    thoughts = ThoughtFilter()
    pieces = ["Three ", "<", " four ", "<thi", "nk>", "hm", "</think", ">", "`a", "`", "\n```\nb\n"]
    given_back = [thoughts.feed(piece) for piece in pieces]
    assert given_back == ["Three ", "", "", "< four ", "", "", "", "", "", "", "`a`\n```\nb\n"]


MARKS = ["<think>", "</think>", "[THINK]", "`", "```", "~~~", "\n", "\n\n", "a ", "[", "<", "[1]"]


@given(st.lists(st.sampled_from(MARKS), max_size=12).map("".join), st.integers(1, 9))
def test_a_stream_says_what_the_whole_says(reply, size):
    said = streamed(reply, size)
    assume("</think>" not in said)
    assert said == without_thoughts(reply)


@pytest.mark.parametrize(
    ("answer", "numbers"),
    [
        ("No citation.", []),
        ("One [1]. Again [1].", [1]),
        ("Both [2][1].", [2, 1]),
        ("List [1, 3], [2;3].", [1, 3, 2]),
        ("Both [3 and 2], [1 & 2].", [3, 2, 1]),
        ("Node.js[1], python.org[2], see README.md[3].", [1, 2, 3]),
        ("Range [1-3] and [2\N{EN DASH}3].", [1, 2, 3]),
        ("people[2].", [2]),
        ("居民[1]。", [1]),
        ("［１，３］【2】", [1, 3, 2]),
        ("〔1〕〖2〗⟦3⟧", [1, 2, 3]),
        ("【1†source】 and 【3†L4-L9】", [1, 3]),
        ("[^1][^3]", [1, 3]),
        ("[١] [२] [๓]", [1, 2, 3]),
        (r"\[1\] [ 2 ] [Document 3]", [1, 2, 3]),
        ("_Berlin_[1], **Paris**[2], U.S.[3]", [1, 2, 3]),
        ("Use `sys.argv`[2], see [1] (2015) and [3](in 2015).", [2, 1, 3]),
        ("It`s large [2].", [2]),
        ("Unknown [4] and [0] and [99999999999], but [4, 2].", [2]),
        ("[2024], [1990-2024], [2-9], [3-1], [2024-01-02], [0, 1]", []),
        ("Not numbers [a] [1a] [] [1 【4:0†source】.", []),
        ("endless [" + "9" * 5000 + "].", []),
        ("`sys.argv[1]` [3] ``a`[2]``", [3]),
        ("```python\nfirst = items[1]\n```\nFrom zero [3].", [3]),
        ("~~~\nitems[1]\n~~~\n[2]", [2]),
        ("Cut off: ```\nitems[1]", []),
        ("<code>items[1]</code> <pre>x [2]</pre> [3]", [3]),
        ("Take sys.argv[1], x[2], my_list[3] or m[1][2].", []),
        ("Set rows[1] = 5, ask rows[2].count(3).", []),
        ("[1](https://example.org) [2](#note) [[3]](/page)", []),
        ("<think>Not [2].</think>But [1].", [1]),
        ("The prompt's thought of [2].\n</think>\nMany [1].", [1]),
    ],
)
def test_citations(answer, numbers):
    assert cited_numbers(answer, 3) == numbers


@pytest.mark.parametrize(
    ("passage", "stripped"),
    [
        ("It rains.[2]", "It rains."),
        ("It rains. [2]", "It rains."),
        ("It rains.[^2] [3]", "It rains. (3)"),
        ("[2] It rains.", "(2) It rains."),
        ("city[2] and [1][3] of", "city and (1)(3) of"),
        ("Head\n~~~~\nAll.[3]", "Head\n~~~~\nAll."),
        ("首都【2】。", "首都。"),
        ("In [2024].", "In [2024]."),
        # What a passage says in brackets stays.
        ("Press [2] or \\[Document 3\\].", "Press (2) or (Document 3)."),
        ("The ports are [80, 443], the dose is [10-20] mg.",) * 2,
        ("95% CI [2, 8], a list [1, 2, 3]", "95% CI (2, 8), a list (1, 2, 3)"),
        ("Allowed: [17]. Large.[17]", "Allowed: [17]. Large."),
    ],
)
def test_what_passages_have_in_brackets_can_not_be_copied_as_citations(passage, stripped):
    assert strip_footnotes(passage, 3) == stripped
    assert cited_numbers(stripped, 3) == []


@pytest.mark.parametrize(
    "code",
    [
        "The value x[2] is the third.",
        "Read `items[1]` first.",
        "first = items[1]",
        "print(items[1])",
        ">>> items[1]",
        "Then:\n\n    return items[1]\n",
        "int first = items[1];",
        "```\nreturn items[1]\n```",
        "sys.argv[1] is its name",
    ],
)
def test_code_of_passages_stays_as_it_is(code):
    assert strip_footnotes(code, 3) == code
