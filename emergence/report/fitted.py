"""Tables for a person at a terminal, fitted to its window by rich. In a pipe or a file nobody's window counts.

No torch, no numpy.
"""

from __future__ import annotations

import io
import shutil
import sys
import textwrap
from collections.abc import Sequence

from emergence.wording import in_line

#: A window is taken to be at least this wide; narrower ones show a table in pieces whatever is done.
LEAST_WIDTH = 40
_LINES = "─"


def is_terminal() -> bool:
    """Whether a person reads standard output as it is printed."""
    return sys.stdout.isatty()


def fitted_table(
    titles: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    left: int,
    spare: Sequence[str] = (),
    width: int | None = None,
) -> str:
    """A table whose cells break between words where the window is too narrow for them.

    Args:
        titles: Of the columns. rows: Cells by row.
        left: So many first columns stand to the left, the others to the right.
        spare: Titles of columns that are left out, the first one first, where words would break. The table says so.
        width: Of the window; by default the terminal's.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    width = width or window_width()
    columns = [[in_line(cell) for cell in column] for column in zip(titles, *rows, strict=True)]
    words = [max(len(word) for cell in column for word in cell.split() or [""]) for column in columns]
    kept = _fitting_columns(titles, words, spare, width)
    longest = [max(map(len, columns[number])) for number in kept]
    widths = _shared_out(width - len(kept) + 1, [words[number] for number in kept], longest)
    table = Table(box=box.SIMPLE_HEAD if _can_draw() else box.ASCII2, pad_edge=False, show_edge=False, padding=0)
    for place, number in enumerate(kept):
        table.add_column(
            Text(in_line(titles[number])),
            justify="left" if number < left else "right",
            overflow="fold",
            width=widths[place] if widths else None,
        )
    for row in rows:
        table.add_row(*(Text(in_line(row[number])) for number in kept))  # Text, because cells are no markup
    out = io.StringIO()
    Console(file=out, width=width, color_system=None, legacy_windows=False).print(table)
    lines = [line.rstrip() for line in out.getvalue().rstrip("\n").split("\n")]
    if gone := [title for number, title in enumerate(titles) if number not in kept]:
        lines.append(fitted_text([f"(not shown in a window this narrow: {', '.join(gone)})"], width=width))
    return "\n".join(lines)


def _fitting_columns(titles: Sequence[str], words: Sequence[int], spare: Sequence[str], width: int) -> list[int]:
    """Numbers of the columns that fit with every word whole, as far as ``spare`` ones make room.

    Args:
        words: Length of the longest word of each column.
    """
    kept = list(range(len(titles)))
    for title in spare:
        if sum(words[number] + 1 for number in kept) - 1 <= width:
            break
        if title in titles:
            kept.remove(titles.index(title))
    return kept


def _shared_out(room: int, least: Sequence[int], most: Sequence[int]) -> list[int]:
    """Widths between ``least`` and ``most`` that fill the room: what one does not need, the others share.

    They are given to rich as they are: with least widths alone it cuts off the columns at the right.

    Returns:
        None at all where not even the least fit: then words have to break.
    """
    widths, spare = list(least), room - sum(least)
    if spare < 0:
        return []
    by_need = sorted(range(len(widths)), key=lambda place: most[place] - least[place])
    for n_left, place in zip(range(len(widths), 0, -1), by_need, strict=True):
        more = min(most[place] - least[place], spare // n_left)
        widths[place], spare = widths[place] + more, spare - more
    return widths


def fitted_text(paragraphs: Sequence[str], *, bullet: str = "", width: int | None = None) -> str:
    """Paragraphs broken into lines at the window's width, each behind a ``bullet``."""
    blank = " " * len(bullet)
    width = width or window_width()
    return "\n".join(
        textwrap.fill(in_line(text), width, initial_indent=bullet, subsequent_indent=blank) for text in paragraphs
    )


def window_width() -> int:
    """Columns of the terminal's window."""
    return max(LEAST_WIDTH, shutil.get_terminal_size().columns)


def _can_draw() -> bool:
    try:
        _LINES.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return False
    return True
