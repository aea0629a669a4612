"""Words from data (names, questions, flags) in formats that read some characters as orders.

Every output of the analyses goes through here: HTML through Jinja's own escaping with :func:`visible` before it.
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
#: Control codes, half characters, and the marks that turn the direction of all that follows.
_UNSEEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
#: A spreadsheet runs a cell that begins so.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_ENTITY = re.compile(r"&(?=#?\w+;)")


def visible(text: str) -> str:
    r"""``text`` with what cannot be seen, or turns what can, spelled out: ``\u202e`` for a right-to-left override."""
    return text if text.isascii() and text.isprintable() else _UNSEEN.sub(lambda match: ascii(match[0])[1:-1], text)


def markdown_escape(text: str) -> str:
    """No cell or note may end its column or line, or turn into markup, a link or a picture."""
    text = " ".join(visible(text).split())
    for character in "\\|*`<~$":
        text = text.replace(character, "\\" + character)
    for pair in ("](", "][", "]:"):
        text = text.replace(pair, "\\" + pair)
    text = _ENTITY.sub(r"\\&", text)
    return re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", text)  # inside a word it is no markup


def latex_escape(text: str) -> str:
    """Text that LaTeX prints as it stands; ranges keep their hyphen, a lone one becomes a dash."""
    if text == "-":
        return "--"
    return "".join(_LATEX.get(character, character) for character in " ".join(visible(text).split()))


def csv_cell(value: object) -> object:
    """A cell's value; words that a spreadsheet would take for a formula get an apostrophe before them."""
    if not isinstance(value, str):
        return value
    text = visible(value)
    return f"'{text}" if text.startswith(_FORMULA) and text != "-" else text


def figure_text(text: str) -> str:
    """Words in a figure: in one line, and a dollar sign begins no mathematics."""
    return " ".join(visible(text).split()).replace("$", r"\$")
