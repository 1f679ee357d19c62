"""A chat model's reply as plain text: its thoughts, its code, its citations."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from langchain_core.output_parsers import StrOutputParser
from langchain_core.outputs import ChatGeneration

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from langchain_core.messages import BaseMessage

# DeepSeek, Qwen and others write <think>, prompted models <thinking> and the like, Mistral [THINK],
# Kimi the triangles. Closed by the same with a slash.
_TAG = re.compile(
    r"(?P<tag></?(?i:(?:\w{1,12}:)?(?:think(?:ing)?|thoughts?|reasoning))(?:\s[^<>]{0,40})?>"
    r"|\[/?THINK\]|◁/?think▷)"
)
# More tildes than three underline a heading.
_FENCE = "`{3,}|(?<!~)~~~(?!~)"
# As in CommonMark, a code span ends within its paragraph or is none.
_SPAN = r"(?<!`)(?P<ticks>`{1,2})(?!`)(?:(?!\n[ \t]*\n).)+?(?<!`)(?P=ticks)(?!`)"
_TAG_OR_CODE = re.compile(rf"(?P<fence>{_FENCE})|{_SPAN}|(?P<alone>`+)|{_TAG.pattern}", re.DOTALL)
# The end of what has come so far, where it may be the beginning of such a mark.
_UNDECIDED = re.compile(r"(?:[`~]+|<[^<>]{0,60}|\[/?[THINK]{0,5}|◁/?\w{0,5})\Z")
_BLANK_LINE = re.compile(r"\n[ \t]*\n")
_CODE = re.compile(
    rf"(?P<fence>{_FENCE}).*?(?:(?P=fence)[`~]*|\Z)|{_SPAN}"
    r"|<(?P<html>(?i:code|pre))\b.*?(?:</(?P=html)>|\Z)",
    re.DOTALL,
)

# Brackets, separators and dashes as keyboards of all languages have them; \d is any script's digit.
_OPENING, _CLOSING = "[\\[［【〔〖⟦]", "[\\]］】〕〗⟧]"  # noqa: RUF001  # full-width on purpose
_SEPARATOR = re.compile(r"\s*(?:[,;，；、،؛&]|\band\b)\s*")  # noqa: RUF001  # full-width on purpose
_DASH = re.compile(r"\s*[-‐‑‒–—−－~～〜]\s*")  # noqa: RUF001  # full-width on purpose
_NUMBER = r"\^?\d{1,6}"
_CITATION = re.compile(
    rf"\\?{_OPENING}\s*(?:(?i:documents?|doc|source)\s*)?"
    rf"(?P<numbers>{_NUMBER}(?:(?:{_SEPARATOR.pattern}|{_DASH.pattern}){_NUMBER})*)"
    rf"\s*(?:†[^\[\]【】]{{0,60}})?\\?{_CLOSING}"
)
_LINK_TARGET = re.compile(r"\]?\((?:[a-z][a-z+.-]*:|www\.|[#/.<])", re.IGNORECASE)
_LAST_WORD = re.compile(r"[\w.]+\Z")
# Few sentences end with x, snake_case or sys.argv, but with the name of a file or of a host.
_FILE_OR_HOST = r"(?!.*\.(?:com|conf|csv|html|io|js|json|md|net|org|pdf|toml|txt|ya?ml)\Z)"
_IDENTIFIER = re.compile(rf"[a-z]|_*[^_]+_.*[^_]_*|{_FILE_OR_HOST}[A-Za-z]\w*(?:\.[A-Za-z_]\w*)+")
_USE_OF_ITEM = re.compile(r"\s*[-+*/]?==?(?!>)|\.\w+\(")
_LONGEST_NAME = 80
_LARGEST_FOOTNOTE = 999
_FOOTED = re.compile(r"""(?:\w|[_*.,;!?'")’”»。、，；！？）])\Z|[.!?。！？]['")*_’”»]*[ \t]+\Z""")  # noqa: RUF001  # full-width on purpose
_BRACKETS = "\\[]［］【】〔〕〖〗⟦⟧ "  # noqa: RUF001  # full-width on purpose
_CODE_LINE = re.compile(
    r"^(?: {4}|\t|(?=.{0,100}$).*(?:>>> |\w\(|[\w\])] ?[-+*/%|&^]?= ?\S|[;{}][ \t]*$)).*$",
    re.MULTILINE,
)


class ThoughtFilter:
    """Takes a reply piece by piece, and gives what is not thought as soon as that is certain.

    Thoughts stand between tags, and tags inside of Markdown code are code. Of a thought that is
    never closed, all is thought if its tag begins a line; else the tag was only mentioned. A
    closing tag without opening, as the prompt opened the thought, takes back what came before it;
    where that has been given already, the tag is given too, for a reader of the whole to see.
    """

    def __init__(self) -> None:
        """Begin a reply."""
        self._held = self._thought = ""
        self._depth = 0
        self._fence_end: re.Pattern[str] | None = None
        self._given = self._closed = False
        self._line_begins = True

    def feed(self, text: str = "", *, last: bool = False) -> str:
        """Take the next piece, or the last one, and give what is certain by now."""
        self._held += text
        said: list[str] = []
        while mark := self._pass(said, last=last):
            if mark.lastgroup == "tag":
                self._turn(mark[0], said)
            else:
                closing = re.escape(mark[0]) + "[`~]*"
                self._fence_end = re.compile(closing) if mark.lastgroup == "fence" else None
        # An opening tag inside of a thought, or within a line, was only mentioned.
        if last and self._depth and (self._closed or not self._line_begins):
            said.append(self._thought)
        whole = "".join(said) if self._given else "".join(said).lstrip()
        self._given = self._given or bool(whole)
        return whole

    def _pass(self, said: list[str], *, last: bool) -> re.Match[str] | None:
        """Pass what is held on up to the next mark, and cut that mark off."""
        undecided = None if last else _UNDECIDED.search(self._held)
        end = undecided.start() if undecided else len(self._held)
        marks = _TAG if self._depth else self._fence_end or _TAG_OR_CODE
        mark = marks.search(self._held, 0, end)
        if mark and mark.lastgroup == "alone":
            paragraph_ends = last or _BLANK_LINE.search(self._held, mark.end(), end)
            end, mark = (end, mark) if paragraph_ends else (mark.start(), None)
        text, rest = self._held[:end], self._held[end:]
        if mark:
            text = self._held[: mark.start() if mark.lastgroup == "tag" else mark.end()]
            rest = self._held[mark.end() :]
        self._held = rest
        if self._depth:
            self._thought += text
        else:
            said.append(text)
            _, newline, line = text.rpartition("\n")
            self._line_begins = not line.strip() and (bool(newline) or self._line_begins)
        return mark

    def _turn(self, tag: str, said: list[str]) -> None:
        """Begin or end a thought, one inside of it, or one that began in the prompt."""
        closes = tag[1] == "/"
        if self._depth or not closes:
            self._closed = closes or (self._closed and self._depth > 0)
            self._thought = "" if closes else self._thought + tag
            self._depth += -1 if closes else 1
        elif self._given:
            said.append(tag)
        else:
            said.clear()
            self._line_begins = True


def without_thoughts(reply: str) -> str:
    """Return what a whole reply says, without what the model thought, and space before it."""
    return ThoughtFilter().feed(reply, last=True)


class AnswerParser(StrOutputParser):
    """What a model says, as text, without what it thinks; piece by piece if it comes so."""

    def parse(self, text: str) -> str:
        """Take the thoughts out of a whole reply."""
        return without_thoughts(text)

    def _transform(self, input: Iterator[str | BaseMessage]) -> Iterator[str]:
        thoughts = ThoughtFilter()
        yield from filter(None, (thoughts.feed(_text(piece)) for piece in input))
        yield thoughts.feed(last=True)

    async def _atransform(self, input: AsyncIterator[str | BaseMessage]) -> AsyncIterator[str]:
        thoughts = ThoughtFilter()
        async for piece in input:
            if said := thoughts.feed(_text(piece)):
                yield said
        yield thoughts.feed(last=True)


def cited_numbers(answer: str, count: int) -> list[int]:
    """Find the numbers from 1 to `count` that an answer cites, in the order of first citation.

    Code, links and thoughts cite nothing. A range of which a part is out of `count`, and brackets
    that hold a 0, are numbers of something else.
    """
    said = without_thoughts(answer)
    return list(dict.fromkeys(n for mark in _citations(said) for n in _numbers(mark, count)))


def strip_footnotes(passage: str, count: int) -> str:
    """Leave footnote marks such as "large.[2]" out, so that a copy of one doesn't cite document 2.

    A footnote mark is one number, right after a word or behind the end of a sentence. Other
    brackets that would cite one of `count` documents, as in "press [2]", become round ones: what is
    in them is said by the passage. Code keeps its subscripts: where it is marked as code, on lines
    that look like it, and after names that no prose has.
    """
    parts, end, footnote = [], 0, False
    for mark in _citations(_CODE_LINE.sub(_blank, passage)):
        before = passage[end : mark.start()]
        footnote = bool(_FOOTED.search(before)) if before else footnote
        footnote &= mark["numbers"].lstrip("^").isdecimal() and bool(
            _numbers(mark, _LARGEST_FOOTNOTE)
        )
        if footnote:
            parts.append(before.rstrip(" \t"))
        elif _numbers(mark, count):
            parts += [before, f"({mark[0].strip(_BRACKETS)})"]
        else:
            parts += [before, mark[0]]
        end = mark.end()
    return "".join([*parts, passage[end:]])


def _text(piece: str | BaseMessage) -> str:
    """Text of a piece of a reply; blocks that hold thoughts are none."""
    return piece if isinstance(piece, str) else ChatGeneration(message=piece).text


def _blank(code: re.Match[str]) -> str:
    """Put as many characters in the place of code, so that positions stay."""
    return "·" * len(code[0])


def _citations(text: str) -> Iterator[re.Match[str]]:
    """Find brackets with numbers that are neither code nor links."""
    prose = _CODE.sub(_blank, text)
    subscript_end = -1
    for mark in _CITATION.finditer(prose):
        start, end = mark.span()
        name = _LAST_WORD.search(prose, max(0, start - _LONGEST_NAME), start)
        if (
            start == subscript_end
            or (name and _IDENTIFIER.fullmatch(name[0]))
            or (name and _USE_OF_ITEM.match(prose, end))
        ):
            subscript_end = end
        elif not _LINK_TARGET.match(prose, end):
            yield mark


def _numbers(citation: re.Match[str], count: int) -> list[int]:
    """List the documents that one pair of brackets names."""
    found: list[int] = []
    for part in _SEPARATOR.split(citation["numbers"]):
        ends = [int(number.lstrip("^")) for number in _DASH.split(part)]
        if 0 in ends:
            return []
        if len(ends) <= 2 and ends[-1] <= count:  # noqa: PLR2004  # a number, or a range of two
            found += range(ends[0], ends[-1] + 1)
    return found
