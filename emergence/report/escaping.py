"""Words from data (names, questions, flags), made safe for formats in which some characters are commands.

Every output of the analyses goes through here. HTML has Jinja's own escaping, with :func:`visible` before it.
"""

from __future__ import annotations

import re

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
#: Control codes, half characters, and marks that turn the direction of the text after them.
_UNSEEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
#: A spreadsheet runs a cell that begins with one of these.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_ENTITY = re.compile(r"&(?=#?\w+;)")


def visible(text: str) -> str:
    r"""``text`` with unseen characters and those that turn text spelled out, such as ``\u202e``."""
    return text if text.isascii() and text.isprintable() else _UNSEEN.sub(lambda match: ascii(match[0])[1:-1], text)


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
    return "".join(_LATEX.get(character, character) for character in " ".join(visible(text).split()))


def csv_cell(value: object) -> object:
    """A cell's value. Words that a spreadsheet would run as a formula get an apostrophe before them."""
    if not isinstance(value, str):
        return value
    text = visible(value)
    return f"'{text}" if text.startswith(_FORMULA) and text != "-" else text


def figure_text(text: str) -> str:
    """``text`` for a figure: it is in one line, and a dollar sign begins no mathematics."""
    return " ".join(visible(text).split()).replace("$", r"\$")
