"""What a report is made of in any format: sections of text, tables, figures, code and examples.

All words are plain strings without HTML or Markdown. The templates escape them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar


@dataclass(frozen=True)
class Text:
    """A paragraph, with ``strong`` printed before it."""

    kind: ClassVar[str] = "text"
    text: str
    strong: str = ""


@dataclass(frozen=True)
class Bullets:
    """A list of sentences."""

    kind: ClassVar[str] = "bullets"
    items: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """A table whose first column names the row.

    Attributes:
        caption: What it shows. head: Titles of columns. rows: Rows with one cell for each title.
    """

    kind: ClassVar[str] = "table"
    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Code:
    """Commands, or a file's content.

    Attributes:
        caption: What it is. text: The lines. folded: Whether it is closed until a reader opens it.
    """

    kind: ClassVar[str] = "code"
    caption: str
    text: str
    folded: bool = False


@dataclass(frozen=True)
class Picture:
    """A figure that is drawn beside the report.

    Attributes:
        name: File name without ending. title, caption: The figure's own words.
        alt: Its numbers in words, for readers who cannot see it. is_wide: Whether it is wider than a phone.
    """

    kind: ClassVar[str] = "picture"
    name: str
    title: str
    caption: str
    alt: str
    is_wide: bool


@dataclass(frozen=True)
class Piece:
    """A stretch of a sentence with the same marks. An ellipsis stands for words that are not known."""

    text: str
    has_space_before: bool = False
    is_gold: bool = False
    is_predicted: bool = False
    is_predicate: bool = False


@dataclass(frozen=True)
class Answer:
    """The answer of one run or probe: its name in words, the text, whether it is exactly right, and token F1.

    The text is empty where older files have the scores alone.
    """

    cell: str
    text: str
    is_right: bool
    f1: float


@dataclass(frozen=True)
class Example:
    """One question with its sentence.

    Attributes:
        question, question_id: The question and its id. pieces: The sentence. golds: The gold answers.
        answers: One answer for each cell, and first that of the cell whose span is marked.
    """

    kind: ClassVar[str] = "example"
    question: str
    question_id: str
    pieces: tuple[Piece, ...]
    golds: tuple[str, ...]
    answers: tuple[Answer, ...]


@dataclass(frozen=True)
class Heading:
    """A title within a section."""

    kind: ClassVar[str] = "heading"
    text: str


Block = Text | Bullets | Table | Code | Picture | Example | Heading


@dataclass(frozen=True)
class Cell:
    """Blocks that stay together on a wide screen, where two cells stand side by side.

    Attributes:
        blocks: Its content from top to bottom. spans: Whether it takes the whole width.
    """

    blocks: tuple[Block, ...]
    spans: bool


#: Characters of a table that half of a wide screen holds, what the space beside each column takes of them, and how
#: many a cell takes before it breaks.
_HALF_SCREEN, _COLUMN_SPACE, _CELL = 105, 2, 24


def is_broad(block: Block) -> bool:
    """Whether half of a wide screen is too little for a table."""
    if not isinstance(block, Table):
        return False
    columns = zip(*block.rows, strict=True)
    return sum(min(max(map(len, column)), _CELL) + _COLUMN_SPACE for column in columns) > _HALF_SCREEN


@dataclass(frozen=True)
class Section:
    """A section of the report.

    Attributes:
        anchor: Its id. title: Its heading. blocks: Its content. terms: Keys of the glossary that it uses.
        absent: Why it is empty. It is then told in one line with other empty ones.
    """

    anchor: str
    title: str
    blocks: tuple[Block, ...]
    terms: tuple[str, ...] = ()
    absent: str = ""

    @property
    def cells(self) -> tuple[Cell, ...]:
        """The blocks, laid out for a wide screen.

        A heading and a picture begin a cell, and a table that is below no heading. What follows stays with them.
        """
        groups: list[list[Block]] = []
        for block in self.blocks:
            headed = bool(groups) and isinstance(groups[-1][0], Heading)
            begins = isinstance(block, Heading | Picture) or (isinstance(block, Table) and not headed)
            if begins or not groups:
                groups.append([])
            groups[-1].append(block)
        only = len(groups) == 1
        return tuple(Cell(tuple(group), only or any(map(is_broad, group))) for group in groups)


@dataclass(frozen=True)
class Report:
    """A whole report.

    Attributes:
        title: The document's title. short: Labels of sets and their verdicts, which stand before everything else.
        sections: The sections in order, empty ones included. glossary: Anchor in ``docs/methods.md`` -> term and one
            line.
        program: Name and version of the program that wrote it.
    """

    title: str
    short: tuple[tuple[str, str], ...]
    sections: tuple[Section, ...]
    glossary: dict[str, tuple[str, str]]
    program: str
    pictures: tuple[Picture, ...] = field(init=False)

    @property
    def present(self) -> tuple[Section, ...]:
        return tuple(section for section in self.sections if not section.absent)

    @property
    def absent(self) -> tuple[Section, ...]:
        return tuple(section for section in self.sections if section.absent)

    def __post_init__(self) -> None:
        pictures = (block for section in self.sections for block in section.blocks if isinstance(block, Picture))
        object.__setattr__(self, "pictures", tuple(pictures))


def table(caption: str, head: Sequence[str], rows: Iterable[Sequence[object]]) -> list[Block]:
    """The table as a list of blocks, which is empty without rows. Empty columns are left out."""
    cells = [tuple("" if cell is None else str(cell) for cell in row) for row in rows]
    kept = [i for i in range(len(head)) if i == 0 or any(row[i] not in ("", "-") for row in cells)]
    shown = tuple(tuple(row[i] for i in kept) for row in cells)
    return [Table(caption, tuple(head[i] for i in kept), shown)] if cells else []
