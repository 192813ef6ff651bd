"""What is said about a result, before it has a form: sentences, facts, tables, shares, figures.

Knows what a reader is shown. Does not know how: `seamscope.reports.terminal` writes parts as text,
`seamscope.reports.page` as HTML, and `seamscope.docks.rich_text` as labels of a window.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple, TypeAlias


class Fact(NamedTuple):
    """A name, its value, and what the value means; all plain text."""

    name: str
    value: str
    meaning: str = ""


@dataclass(frozen=True)
class Text:
    """A paragraph of plain text."""

    kind: ClassVar = "text"
    text: str


@dataclass(frozen=True)
class Verdict:
    """A word that sums up, and the sentence that belongs to it.

    Attributes
    ----------
    word, sentence
        Plain text; the word may be empty.
    good
        Whether it is good news.
    """

    word: str
    sentence: str
    good: bool
    kind: ClassVar = "verdict"

    @property
    def text(self) -> str:
        """Word and sentence as a paragraph."""
        if not self.word or self.sentence.startswith(self.word):
            return self.sentence
        return f"{self.word}. {self.sentence}" if self.sentence else f"{self.word}."


@dataclass(frozen=True)
class Facts:
    """Names and values, with what they mean.

    Attributes
    ----------
    rows
        ``(name, value)`` or ``(name, value, meaning)``, plain text.
    """

    rows: Sequence[tuple[str, ...]]
    kind: ClassVar = "facts"

    @property
    def facts(self) -> tuple[Fact, ...]:
        """Rows with a meaning each, which may be empty."""
        return tuple(Fact(*row) for row in self.rows)


@dataclass(frozen=True)
class Definition:
    """What a word means.

    Attributes
    ----------
    term, text
        Plain text.
    formula
        MathML of this program, not escaped; may be empty.
    """

    term: str
    text: str
    formula: str = ""
    kind: ClassVar = "definition"


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes
    ----------
    columns
        Their names.
    rows
        Plain text, one for each column.
    caption
        Plain text.
    best
        Number of the row that is recommended.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    best: int | None = None
    kind: ClassVar = "table"

    @property
    def numeric(self) -> tuple[bool, ...]:
        """For each column whether it holds numbers, which are set flush right."""
        return tuple(
            all(_is_number(row[k]) for row in self.rows) and bool(self.rows)
            for k in range(len(self.columns))
        )


class Share(NamedTuple):
    """A part of a whole: its name, how much it is (0 to 1), a sentence about it, what to do."""

    name: str
    share: float
    sentence: str
    remedy: str = ""


@dataclass(frozen=True)
class Shares:
    """Parts of a whole, largest first.

    Attributes
    ----------
    rows
        The parts.
    caption
        What they are parts of, plain text.
    """

    rows: Sequence[Share]
    caption: str = ""
    kind: ClassVar = "shares"


@dataclass(frozen=True)
class Figure:
    """A figure, made by `seamscope.reports.page.figure`.

    Attributes
    ----------
    svg
        The drawing, which follows the page's colours.
    caption
        Plain text below it.
    alt
        Plain text for readers who cannot see it.
    """

    svg: str = field(repr=False)
    caption: str
    alt: str
    kind: ClassVar = "figure"


Part: TypeAlias = Text | Verdict | Facts | Definition | Table | Shares | Figure


@dataclass(frozen=True)
class Section:
    """A heading and what is below it."""

    title: str
    parts: Sequence[Part]


def _is_number(text: str) -> bool:
    with contextlib.suppress(ValueError):
        float(text.removesuffix("%").removeprefix(">").replace(",", "_"))
        return True
    return text in ("–", "", "∞")


__all__ = [
    "Definition",
    "Fact",
    "Facts",
    "Figure",
    "Part",
    "Section",
    "Share",
    "Shares",
    "Table",
    "Text",
    "Verdict",
]
