"""WikiText (Merity et al. 2016) as natural text.

Both hub forms, ``-raw`` included, are tokenised: spaces around punctuation, ``@-@`` inside compounds, `` = Title = ``
for headings. A model that is later asked about ordinary sentences should read ordinary text, so this is undone. Two
things stay. ``<unk>`` does, because the word is gone, and inventing one would be worse. Spaces inside single quotation
marks do, because the marks look like apostrophes.
"""

from __future__ import annotations

import re

_TITLE = re.compile(r" ?= (?!=)(.*[^\s=]) = ?")
_HEADING = re.compile(r" ?(=(?: =){0,9}) (\S.*?) \1 ?")
_QUOTED = re.compile(r'" ?([^"]*?) ?"')
_CLITIC = re.compile(r" '(s|t|m|d|ve|re|ll)\b")
_PLURAL_POSSESSIVE = re.compile(r"s ' ")
_OPENERS = re.compile(r"(?<![^\s(\[{\"])([(\[{$£€#]) ")
_CLOSERS = re.compile(r" (\.\.\.|[.,;:!?%)\]}])(?![^\s)\]}\"])")
_BETWEEN_NUMBERS = re.compile(r"(?<=\d) ([–:]) (?=\d)")  # 5–6, 13:05


def is_title(line: str) -> bool:
    """Whether a line is `` = Title = ``. After a blank line, such a line begins a new document."""
    return "= " in line[:3] and _TITLE.fullmatch(line) is not None


def plain_heading(line: str) -> str:
    """A heading of any level without its equals signs. Any other line is returned as it is."""
    if "= " in line[:3] and (match := _HEADING.fullmatch(line)):
        return match[2]
    return line


def looks_tokenised(sample: str) -> bool:
    """Whether a sample of running text has spaces before its punctuation."""
    if " @-@ " in sample or " @,@ " in sample:
        return True
    return sample.count(" , ") > max(2, sample.count(",") // 2)


def detokenise(line: str) -> str:
    """One line of WikiText as it would be printed.

    >>> detokenise('It weighs 0 @.@ 7 – 2 @.@ 2 kg ( 1 @.@ 5 lb ) , and is called " midnight @-@ sun lobster " .')
    'It weighs 0.7–2.2 kg (1.5 lb), and is called "midnight-sun lobster".'
    """
    line = line.strip()
    if "@" in line:
        line = line.replace(" @-@ ", "-").replace(" @,@ ", ",").replace(" @.@ ", ".")
    if '"' in line:
        line = _QUOTED.sub(r'"\1"', line)
    if "'" in line:
        line = _CLITIC.sub(r"'\1", line)
        line = _PLURAL_POSSESSIVE.sub("s' ", line)
    if "–" in line or ":" in line:
        line = _BETWEEN_NUMBERS.sub(r"\1", line)
    line = _OPENERS.sub(r"\1", line)
    line = _CLOSERS.sub(r"\1", line)
    return line.replace(" / ", "/")
