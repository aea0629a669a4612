"""Hostile words in names, questions and flags stay words in HTML, Markdown, LaTeX, CSV and figures."""

from __future__ import annotations

import csv
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from emergence.findings.table import build_table
from emergence.report.charts.drawing import table_text
from emergence.report.escaping import csv_cell, figure_text, latex_escape, markdown_escape
from emergence.report.figures import make_figures
from emergence.report.table_formats import format_table
from emergence.report.write import write_report
from emergence.wording import visible
from tests.planted_runs import write_guide_file

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "a & b &lt;i&gt; 100% _under_ #1 {x} ~ ^ \\input{/etc/passwd} $\\frac",
    "=cmd|'/c calc'!A1",
    "@SUM(1)",
    "| a | **b** `c` [d](javascript:alert(1)) ![e](http://x/y.png)",
    "\u202egpj.exe\u2066 \u200f",
    "line\nbreak\r\n\t\x1b[31m\x07",
)


class Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stats files whose size is called something hostile, under hostile names where the system allows them."""
    root = tmp_path_factory.mktemp("hostile")
    for number, words in enumerate(HOSTILE):
        name = re.sub(r"[/\0]", "_", words)
        for frozen in (False, True):
            for random in (False, True):
                path = root / f"{number}{frozen:d}{random:d} {name}.json"
                write_guide_file(path, 0.5 - 0.1 * frozen - 0.2 * random, frozen=frozen, random=random,
                                 config_name=words)  # fmt: skip
    return root


def test_the_report_holds_them_as_text(folder: Path) -> None:
    written = write_report(folder, n_boot=20)
    page = Tags(written.html.read_text(encoding="utf-8"))
    assert not [tag for tag, _ in page.tags if tag in ("script", "iframe", "object", "i")]
    assert all(str(attributes.get("src", "data:")).startswith("data:") for tag, attributes in page.tags if tag == "img")
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    markdown = written.markdown.read_text(encoding="utf-8")
    for text in (page.text, markdown):
        assert not re.search("[\u202a-\u202e\u2066-\u2069\u200f\x1b\x07]", text)
    assert "<script>alert(1)</script>" in page.text and "\\u202egpj.exe" in page.text
    assert not re.search(r"(?<!\\)<(script|img)", markdown)
    assert not re.search(r"(?<!\\)\]\((javascript|http)", markdown)


def test_tables_in_every_format(folder: Path) -> None:
    table = build_table(folder)
    rows = list(csv.DictReader(io.StringIO(format_table(table, "csv"))))
    words = [value for row in rows for value in row.values() if value]
    assert any("cmd|" in word for word in words)
    assert not [word for word in words if word.startswith(("=", "@", "\t", "\r"))]
    assert not [word for word in words if word[0] in "+-" and not re.fullmatch(r"[+-](inf|[\d.e+-]+)", word)]
    latex = format_table(table, "latex")
    body = latex.split("\\midrule", 1)[1].split("\\bottomrule")[0]
    assert "\\input" not in body and "\\frac" not in body and "<" not in body
    assert len({len(re.findall(r"(?<!\\)&", line)) for line in body.splitlines() if line.endswith("\\\\")}) == 1
    assert all(line.startswith("%") for line in latex.split("\\end{tabular}")[1].splitlines() if line)
    markdown = format_table(table, "markdown")
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1
    for text in (latex, markdown, format_table(table, "csv")):
        assert not re.search("[\u202a-\u202e\u2066-\u2069\x1b\x07]", text)


@pytest.mark.slow  # the report above draws them too, in one format
def test_figures_draw_them(folder: Path, tmp_path: Path) -> None:
    report = make_figures(folder, tmp_path / "figures", n_boot=20)
    captions = (tmp_path / "figures" / "captions.md").read_text(encoding="utf-8")
    assert not re.search(r"(?<!\\)<(script|img)", captions) and report.out_dir == tmp_path / "figures"


def test_rows_beside_figures_are_no_formulas() -> None:
    assert table_text([{"a": "=1+1", "b": -1.5, "c": "-", "d": "-x"}]) == "a,b,c,d\n'=1+1,-1.5,-,'-x\n"


@pytest.mark.parametrize("words", HOSTILE)
def test_each_escape(words: str) -> None:
    assert visible(visible(words)) == visible(words) and "\x1b" not in visible(words)
    markdown, latex = markdown_escape(words), latex_escape(words)
    assert "\n" not in markdown + latex
    assert not re.search(r"(?<!\\)[|*`<]", markdown.replace("\\\\", ""))
    plain = re.sub(r"\\text\w+\{\}|\\[{}&%$#_]", "", latex)
    assert not set(plain) & set("\\{}&%$#_~^<>|")
    assert not str(csv_cell(words)).startswith(("=", "+", "@"))
    assert figure_text(words).count("$") == figure_text(words).count("\\$")
    assert csv_cell(-1.5) == -1.5 and csv_cell("-") == "-"


@pytest.mark.parametrize(
    "words",
    ["\n=1+1", "\r\n=1+1", " =1", "\uff1d1+1", "\u200b=1", "\xa0\uff0b1", "\ufe63x", "\uff20SUM(1)", "\n", "\u2060-1"],
)
def test_formulas_behind_blanks_and_in_full_width(words: str) -> None:
    assert str(csv_cell(words)).startswith(("'", "\\u000d"))
    assert not {csv_cell(word) for word in ("a=1", "-", "", "\u00e9=", "\u2014x")} & {
        "'a=1",
        "'-",
        "'",
        "'\u00e9=",
        "'\u2014x",
    }


@pytest.mark.parametrize("words", ["[2pt]x", "*x", "  [x", "\n*", "[", "*[1em]"])
def test_no_cell_is_an_option_of_the_row_before(words: str) -> None:
    """After a row's end, LaTeX takes a bracket for a length and a star for a kind of break."""
    assert re.match(r"\{[\[*]\}", latex_escape(words)) and latex_escape("a[1]*") == "a[1]*"
