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
_TAG = (
    r"<(?P<slash>/)?(?i:(?:\w{1,12}:)?(?:think(?:ing)?|thoughts?|reasoning))(?:\s[^<>]{0,40})?>"
    r"|\[(?P<mistral>/)?THINK\]|◁(?P<kimi>/)?think▷"
)
_THOUGHT_TAG = re.compile(_TAG)
# More tildes than three underline a heading.
_TILDES = "(?<!~)~~~(?!~)"
_TAG_OR_CODE = re.compile(rf"(?P<run>`+|{_TILDES})|{_TAG}")
# The end of what has come so far, where it may be the beginning of such a mark.
_UNDECIDED = re.compile(r"(?:[`~]+|<[^<>]{0,60}|\[/?[THINK]{0,5}|◁/?\w{0,5})?\Z")
# As in CommonMark, a code span ends within its paragraph or is none.
_SPAN = r"(?<!`)(?P<ticks>`{1,2})(?!`)(?:(?!\n[ \t]*\n).)+?(?<!`)(?P=ticks)(?!`)"
_CODE_SPAN = re.compile(_SPAN, re.DOTALL)
_CODE = re.compile(
    rf"(?P<fence>`{{3,}}|{_TILDES}).*?(?:(?P=fence)[`~]*|\Z)|{_SPAN}"
    r"|<(?P<html>(?i:code|pre))\b.*?(?:</(?P=html)>|\Z)",
    re.DOTALL,
)
_BLANK_LINE = re.compile(r"\n[ \t]*\n")

# Brackets, separators and dashes as keyboards of all languages have them; \d is any script's digit.
_OPENING, _CLOSING = "[\\[［【〔〖⟦]", "[\\]］】〕〗⟧]"  # noqa: RUF001  # full-width on purpose
_SEPARATOR = re.compile(r"\s*[,;，；、،؛]\s*")  # noqa: RUF001  # full-width on purpose
_DASH = re.compile(r"\s*[-‐‑‒–—−－~～〜]\s*")  # noqa: RUF001  # full-width on purpose
_NUMBER = r"\^?\d{1,6}"
_CITATION = re.compile(
    rf"(?P<open>\\?{_OPENING}\s*)(?:(?i:documents?|doc|source)\s*)?"
    rf"(?P<numbers>{_NUMBER}(?:(?:{_SEPARATOR.pattern}|{_DASH.pattern}){_NUMBER})*)"
    rf"\s*(?:†[^\[\]【】]{{0,60}})?\\?{_CLOSING}"
)
_LINK_TARGET = re.compile(r"\]?\((?:[a-z][a-z+.-]*:|www\.|[#/.<])", re.IGNORECASE)
_LAST_WORD = re.compile(r"[\w.]*\Z")
_DOTTED_NAME = re.compile(r"[A-Za-z]\w*(?:\.[A-Za-z_]\w*)+")
_USE_OF_ITEM = re.compile(r"\s*[-+*/]?==?(?!>)|\.\w+\(")
_LONGEST_NAME = 80
_LARGEST_FOOTNOTE = 999
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
        self._held = ""
        self._fence = ""
        self._depth = 0
        self._thought = ""
        self._closed_at = 0
        self._given = False
        self._line_begins = True

    def feed(self, text: str = "", *, last: bool = False) -> str:
        """Take the next piece, or the last one, and give what is certain by now."""
        self._held += text
        said: list[str] = []
        undecided = None if last else _UNDECIDED.search(self._held)
        tail = 0 if undecided is None else len(undecided[0])
        going = True
        while going:
            end = len(self._held) - tail
            if self._depth:
                going = self._think(end)
            elif self._fence:
                going = self._quote(end, said)
            else:
                going = self._say(end, said, last=last)
        if last and self._depth:
            self._give_back(said)
        whole = "".join(said)
        if not self._given:
            whole = whole.lstrip()
        self._given = self._given or bool(whole)
        return whole

    def _say(self, end: int, said: list[str], *, last: bool) -> bool:
        """Pass prose on up to the next mark, and say whether there was one."""
        mark = _TAG_OR_CODE.search(self._held, 0, end)
        if mark is None:
            self._pass(end, said)
            return False
        if mark["run"] is None:
            self._pass(mark.start(), said)
            self._turn(mark, said)
        elif len(mark["run"]) >= 3:  # noqa: PLR2004  # a fence, by CommonMark
            self._fence = mark["run"]
            self._pass(mark.end(), said)
        elif (span := _CODE_SPAN.match(self._held, mark.start())) and span.end() <= end:
            self._pass(span.end(), said)
        elif span is None and (last or _BLANK_LINE.search(self._held, mark.end())):
            self._pass(mark.end(), said)
        else:
            self._pass(mark.start(), said)
            return False
        return True

    def _turn(self, tag: re.Match[str], said: list[str]) -> None:
        """Begin a thought, or end one that began in the prompt."""
        self._held = self._held[tag.end() - tag.start() :]
        if not _closes(tag):
            self._depth, self._thought, self._closed_at = 1, tag[0], 0
        elif self._given:
            said.append(tag[0])
        else:
            said.clear()
            self._line_begins = True

    def _think(self, end: int) -> bool:
        """Hold a thought back up to the next tag, and say whether there was one."""
        tag = _THOUGHT_TAG.search(self._held, 0, end)
        place = end if tag is None else tag.end()
        self._thought += self._held[:place]
        self._held = self._held[place:]
        if tag is None:
            return False
        self._depth += -1 if _closes(tag) else 1
        if _closes(tag):
            self._closed_at = len(self._thought)
        return True

    def _quote(self, end: int, said: list[str]) -> bool:
        """Pass fenced code on up to its end, and say whether that has come."""
        closing = re.compile(re.escape(self._fence) + "[`~]*").search(self._held, 0, end)
        self._pass(end if closing is None else closing.end(), said)
        if closing:
            self._fence = ""
        return closing is not None

    def _give_back(self, said: list[str]) -> None:
        """Settle a thought that was not closed by the end of the reply."""
        if self._closed_at:  # an opening tag inside of the thought was only mentioned
            said.append(self._thought[self._closed_at :])
        elif not self._line_begins:
            said.append(self._thought)
        self._depth = 0

    def _pass(self, end: int, said: list[str]) -> None:
        text, self._held = self._held[:end], self._held[end:]
        _, newline, line = text.rpartition("\n")
        self._line_begins = not line.strip() and (bool(newline) or self._line_begins)
        said.append(text)


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
        for piece in input:
            if said := thoughts.feed(_text(piece)):
                yield said
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


def mark_footnotes(passage: str) -> str:
    """Write "[2]" as "[note 2]", as a model that copies it would seem to cite document 2.

    Code keeps its subscripts: where it is marked as code, on lines that look like it, and after
    names that no prose has.
    """
    parts, place = [], 0
    for mark in _footnotes(passage):
        parts += [passage[place : mark.end("open")], "note "]
        place = mark.end("open")
    return "".join([*parts, passage[place:]])


def strip_footnotes(passage: str) -> str:
    """Leave footnote marks out, with the space before them."""
    parts, place = [], 0
    for mark in _footnotes(passage):
        parts.append(passage[place : mark.start()].rstrip(" \t"))
        place = mark.end()
    return "".join([*parts, passage[place:]])


def _text(piece: str | BaseMessage) -> str:
    """Text of a piece of a reply; blocks that hold thoughts are none."""
    return piece if isinstance(piece, str) else ChatGeneration(message=piece).text


def _closes(tag: re.Match[str]) -> bool:
    return any(tag[name] for name in ("slash", "mistral", "kimi"))


def _blank(code: re.Match[str]) -> str:
    """Put as many characters in the place of code, so that positions stay."""
    return "·" * len(code[0])


def _is_identifier(word: str) -> bool:
    """Tell names that no sentence ends with: x, snake_case, sys.argv."""
    letter = len(word) == 1 and "a" <= word <= "z"
    return letter or "_" in word.strip("_") or bool(_DOTTED_NAME.fullmatch(word))


def _citations(text: str) -> Iterator[re.Match[str]]:
    """Find brackets with numbers that are neither code nor links."""
    prose = _CODE.sub(_blank, text)
    subscript_end = -1
    for mark in _CITATION.finditer(prose):
        start, end = mark.span()
        last_word = _LAST_WORD.search(prose, max(0, start - _LONGEST_NAME), start)
        word = last_word[0] if last_word else ""
        if (
            start == subscript_end
            or _is_identifier(word)
            or (word and _USE_OF_ITEM.match(prose, end))
        ):
            subscript_end = end
        elif not _LINK_TARGET.match(prose, end):
            yield mark


def _footnotes(passage: str) -> Iterator[re.Match[str]]:
    """Find in prose what would be citations in an answer."""
    prose = _CODE_LINE.sub(_blank, passage)
    return (mark for mark in _citations(prose) if _numbers(mark, _LARGEST_FOOTNOTE))


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
