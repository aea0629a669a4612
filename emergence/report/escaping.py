"""Words from data (names, questions, flags), made safe for formats in which some characters are commands.

Every output of the analyses goes through here. HTML has Jinja's own escaping, with ``wording.visible`` before it.
"""

from __future__ import annotations

import re
import unicodedata

from emergence.wording import visible

_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
}
#: A spreadsheet runs a cell that begins with one of these, whatever blank and of whatever width.
_FORMULA = ("=", "+", "-", "@")
_ENTITY = re.compile(r"&(?=#?\w+;)")


def markdown_escape(text: str) -> str:
    """``text`` as Markdown that cannot end its cell or line, or become markup, a link or a picture."""
    text = " ".join(visible(text).split())
    for character in "\\|*`<~$":
        text = text.replace(character, "\\" + character)
    for pair in ("](", "][", "]:"):
        text = text.replace(pair, "\\" + pair)
    text = _ENTITY.sub(r"\\&", text)
    return re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", text)  # inside a word it is no markup


def latex_escape(text: str) -> str:
    """``text`` as LaTeX that prints it as it stands. A lone hyphen becomes a dash; ranges keep theirs."""
    if text == "-":
        return "--"
    escaped = "".join(_LATEX.get(character, character) for character in " ".join(visible(text).split()))
    # After the end of a row, or a rule, a bracket opens an option and a star is one.
    return f"{{{escaped[0]}}}{escaped[1:]}" if escaped.startswith(("[", "*")) else escaped


def csv_cell(value: object) -> object:
    """A cell's value. Words that a spreadsheet would run as a formula get an apostrophe before them."""
    if not isinstance(value, str):
        return value
    text = visible(value)
    # Blanks and unseen characters before a formula, and its sign in full width, do not keep it from being one.
    seen = next((character for character in text if unicodedata.category(character)[0] not in "CZ"), "")
    begins = unicodedata.normalize("NFKC", seen)
    is_order = text != "-" and (begins.startswith(_FORMULA) or text[:1].isspace())
    return f"'{text}" if is_order else text


def figure_text(text: str) -> str:
    """``text`` for a figure: it is in one line, and a dollar sign begins no mathematics."""
    return " ".join(visible(text).split()).replace("$", r"\$")
