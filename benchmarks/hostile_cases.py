"""What somebody with an editor can put before the program, for :mod:`benchmarks.hostile_campaign`.

Unlike random damage every attack is well formed as far as it goes: JSON is sealed again, weights are sealed, archives
unpack, settings have the right type. Each says how the program has to name it.
"""

from __future__ import annotations

import bz2
import csv
import dataclasses
import functools
import gzip
import hashlib
import io
import json
import lzma
import random
import re
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import IO, Any, cast, get_type_hints

import torch

from benchmarks import samples
from emergence.data.tokenizer import TextTokenizer
from emergence.model.trunk import build_trunk
from emergence.spec.config import load_config
from emergence.spec.settings import SECTIONS
from emergence.training import checkpoint
from emergence.training.sealing import SealingStream

#: Looks at standard output; returns what is wrong with it, or nothing.
Check = Callable[[str], str]


@dataclass
class Attack:
    """A command line, the files it meets, and how it has to end.

    Attributes:
        files: Content by name in the folder of planted runs; ``{folder}`` in ``words`` is that folder.
        says: Has to be in what is printed. ends: Exit codes that are right.
        check: Looks at standard output.
    """

    kind: str
    name: str
    words: list[str]
    files: dict[str, bytes] = field(default_factory=dict)
    says: str = ""
    ends: tuple[int, ...] = (1, 2)
    check: Check = lambda out: ""


# JSON ----------------------------------------------------------------------------------------------

#: Parts of a result whose every node has one kind of value.
_TYPED = ("test_scores", "validation_scores", "probes", "parameters", "seconds", "lineage", "pretraining", "flags",
          "config_name", "final_validation_f1", "final_validation_accuracy", "finetune_epochs", "seed")  # fmt: skip
_FOLDER_COMMANDS = (["table", "{folder}"], ["table", "{folder}", "--format", "csv"], ["curves", "{folder}"],
                    ["table", "{folder}", "--format", "latex"], ["table", "{folder}", "--format", "json"])  # fmt: skip


def _nested(depth: int, opens: str = "[", closes: str = "]") -> str:
    return opens * depth + closes * depth


#: JSON text that can stand for no part of a result.
_NOWHERE = (
    *(_nested(depth) for depth in (65, 300, 450, 700, 1_000, 50_000)), _nested(500, '{"a":[', "]}"),
    "1" + "0" * 400, "-1" + "0" * 3_000, "1" + "0" * 6_000, "1e400", "-1e999", "NaN", "Infinity", '"\\ud800"',
    '"a\\udfff\\ud800"', '{"\\ud83d": 1}', '"' + "x" * 1_000_000 + '"', '"' + "\\u0000" * 20_000 + '"',
    '{"' + "k" * 300_000 + '": 1}', "{", '"', "[1,]", '{"a": 1, "a": 2}', "'a'", "01", "+1", ".5", "0x10", "[1] 2",
)  # fmt: skip
_INSTEAD_OF_NUMBER = ("[0.5]", "{}", '{"point": 1}', '"0.5"', "[[]]", '"\\u001b[31m"', "-1e300")
_INSTEAD_OF_TEXT = ("[]", "{}", "3", "-0.5", "true", '["a"]')
_INSTEAD_OF_OBJECT = ("[]", '"x"', "3", "true", "[[1]]", "0.5")


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    if path:
        yield path, value
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from _places(item, (*path, key))


def _impossible(value: Any, chance: random.Random) -> str:
    if chance.random() < 0.4:
        return chance.choice(_NOWHERE)
    if isinstance(value, bool):
        return chance.choice(_INSTEAD_OF_OBJECT[:2])
    if isinstance(value, (int, float)):
        return chance.choice(_INSTEAD_OF_NUMBER[: 7 if value >= 0 else 6])
    if isinstance(value, list):
        return chance.choice(_INSTEAD_OF_OBJECT[1:4])
    return chance.choice(_INSTEAD_OF_TEXT if isinstance(value, str) else _INSTEAD_OF_OBJECT)


def _sealed_with(stats: dict[str, Any], path: tuple[Any, ...], text: str) -> bytes:
    """The stats with JSON text put at ``path``, sealed again as the program would if it took the text."""
    mark = "put \u2603 here"
    copy = json.loads(json.dumps(stats))
    at = copy
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = mark
    copy.pop("sha256", None)
    try:
        sys.setrecursionlimit(20_000)
        content = json.dumps(copy, sort_keys=True, separators=(",", ":")).replace(json.dumps(mark), _canonical(text))
    finally:
        sys.setrecursionlimit(1_000)
    seal = hashlib.sha256(content.encode()).hexdigest()
    return json.dumps({**copy, "sha256": seal}, indent=2).replace(json.dumps(mark), text).encode() + b"\n"


def _canonical(text: str) -> str:
    try:
        return json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"))
    except (ValueError, RecursionError):
        return text


def json_attacks(chance: random.Random, stats: dict[str, Any], guide: dict[str, Any]) -> Iterator[Attack]:
    """One bad results file among good ones: it has to be named, and the good ones have to be there still."""
    typed = [(path, value) for path, value in _places(stats) if path[0] in _TYPED and value is not None]
    while True:
        old = chance.random() < 0.2
        if old:
            path, value = chance.choice([(path, value) for path, value in _places(guide) if value is not None])
            text = _impossible(value, chance)
            mark = json.dumps({**guide, path[0]: "MARK"}) if len(path) == 1 else None
            content = mark.replace('"MARK"', text).encode() if mark else _sealed_with(guide, path, text)
        else:
            path, value = chance.choice(typed)
            text = _impossible(value, chance)
            content = _sealed_with(stats, path, text)
        name = f"bad{chance.randrange(1000)}.json"
        place = ".".join(map(str, path))
        words = list(chance.choice(_FOLDER_COMMANDS))
        yield Attack("json", f"{place} = {text[:30]}", words, {name: content}, name, (0,), _all_four(words))


def _all_four(words: list[str]) -> Check:
    """The good results are in the table: each planted F1 is."""
    wanted = () if words[0] == "curves" else ("0.6", "0.4", "0.3", "0.2")

    def check(out: str) -> str:
        return "" if all(number in out for number in wanted) else "the good results are not all there"

    return check


# Names ---------------------------------------------------------------------------------------------

_ORDERS = ("\x1b[31m", "\x1b]0;title\x07", "\x1b[2J", "\x1b[1A\x1b[2K", "\r", "\x08" * 5, "\x9b31m", "\u202e", "\u2066",
           "\x7f", "\n", "\t\v\f", "\u2028", "\x1bP+q\x1b\\", "\x1b[?1049h", "\ufeff", "\U000e0041",
           "\x0e")  # fmt: skip


def name_attacks(chance: random.Random, stats: bytes) -> Iterator[Attack]:
    """Orders to a terminal in the names of files, folders, runs and flags."""
    while True:
        orders = "".join(chance.sample(_ORDERS, chance.randrange(1, 5)))
        name = f"a{orders}b"
        folder = f"{name}dir"
        shapes: tuple[tuple[list[str], dict[str, bytes], tuple[int, ...]], ...] = (
            (["list", "--runs-dir", "{folder}/" + folder], {f"{folder}/{name}/spec.json": b"{}"}, (0,)),
            (["list", "--runs-dir", "{folder}/" + folder, "--json"], {f"{folder}/{name}/spec.json": b"{}"}, (0,)),
            (["table", "{folder}"], {f"{name}.json": b'{"config_name": 3}'}, (0,)),
            (["table", "{folder}", "--format", "csv"], {f"{folder}/{name}.json": stats[:-9]}, (0,)),
            (["curves", "{folder}"], {f"{folder}/{name}.json": stats[:-9]}, (0,)),
            (["table", "{folder}/" + name], {}, (1, 2)),
            (["run", "--resume", name], {}, (1, 2)),
            (["run", "--config-name", name], {}, (1, 2)),
            (["run", "--set", f"{name}=1"], {}, (1, 2)),
            (["run", "--data", "microworld", "--qa-data", "{folder}/" + name], {name: b"no data"}, (1, 2)),
            (
                ["run", "--data", "microworld", "--pretrain-text", "{folder}/" + folder],
                {f"{folder}/{name}": b""},
                (1, 2),
            ),
            (["run", "--skip-pretrain", "--pretrained-model-path", "{folder}/" + name], {name: b"PK"}, (1, 2)),
            (["probe-snapshots", "{folder}/" + name], {f"{name}/spec.json": b"[]"}, (1, 2)),
            (["sweep", "{folder}/" + name, "--dry-run"], {name: b"cells = ["}, (1, 2)),
            (["verify", "--qa-data", "{folder}/" + name], {name: b"{}"}, (1, 2)),
            (["config", name], {}, (1, 2)),
            (["cka", "--model-dir", "{folder}/" + folder], {f"{folder}/spec.json": b"{}"}, (1, 2)),
        )
        words, files, ends = chance.choice(shapes)
        yield Attack("names", f"{words[0]} {orders!r}", words, files, ends=ends)


# Cells ---------------------------------------------------------------------------------------------

_BLANKS = ("", "\n", "\r\n", "\t", " ", "\xa0", "\u3000", "\u200b", "\ufeff", "\x0b")
_FORMULAS = (
    "=1+1",
    "+1",
    "-1+1",
    "@SUM(1)",
    "\uff1d1",
    "\uff0b1",
    "\uff0d1",
    "\uff20x",
    "\ufe661",
    "\ufe62",
    "=cmd|' /C calc'!A0",
)
_LATEX = ("[2pt]x", "*x", "[", "*[9em]", "\\input{/etc/passwd}", "}x{", "a & b \\\\", "%", "#1", "^^5cinput", "$x^2$",
          "\\end{tabular}", "~", "_", "{\\catcode`\\%=12", "\\\\[3em]")  # fmt: skip
_MARKDOWN = (
    "a | b",
    "[x](javascript:1)",
    "![x](http://a)",
    "<script>1</script>",
    "`x`",
    "**b**",
    "&lt;",
    "a\n\n# b",
    "$x$",
)


def cell_attacks(chance: random.Random, guide: dict[str, Any]) -> Iterator[Attack]:
    """Sizes that a spreadsheet, LaTeX or Markdown would obey."""
    shapes: tuple[tuple[str, tuple[str, ...], Check], ...] = (
        ("csv", _FORMULAS, _is_safe_csv), ("latex", _LATEX, _is_safe_latex), ("markdown", _MARKDOWN, _is_safe_markdown)
    )  # fmt: skip
    while True:
        style, words, check = chance.choice(shapes)
        size = chance.choice(_BLANKS) + chance.choice(words)
        content = json.dumps({**guide, "config_name": size}).encode()
        line = ["table", "{folder}", "--format", style]
        yield Attack("cells", f"{style} {size!r}", line, {"odd.json": content}, ends=(0,), check=check)


def _is_safe_csv(out: str) -> str:
    rows = [*csv.reader(io.StringIO(out))]
    cells = [cell for row in rows for cell in row if not re.fullmatch(r"[+-]?(inf|[\d.]+(e[+-]?\d+)?)", cell)]
    if len({len(row) for row in rows}) != 1:
        return "rows of different lengths"
    shown = (re.sub(r"^[\s\u200b\ufeff]+", "", cell) for cell in cells if cell != "-")
    bad = [cell for cell in shown if cell[:1] in tuple("=+-@\uff1d\uff0b\uff0d\uff20\ufe66\ufe62")[: 99 if cell else 0]]
    return f"a formula: {bad[0]!r}" if bad else ""


def _is_safe_latex(out: str) -> str:
    body = out.split("\\midrule", 1)[1].split("\\bottomrule")[0]
    lines = [line for line in body.splitlines() if line.strip() and line.strip() != "\\midrule"]
    if bad := [line for line in lines if line.lstrip()[0] in "[*" or not line.endswith("\\\\")]:
        return f"an option: {bad[0]!r}"
    if len({len(re.findall(r"(?<!\\)&", line)) for line in lines}) != 1:
        return "rows of different lengths"
    left = re.sub(r"\\text\w+\{\}|\\[{}&%$#_]|\{[\[*]\}|\\\\$|&", "", body.replace("\\midrule", ""), flags=re.M)
    return f"an order: {left!r}"[:200] if set(left) & set("\\{}$#%^~") else ""


def _is_safe_markdown(out: str) -> str:
    lines = [line for line in out.splitlines() if line.startswith("|")]
    if len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) != 1:
        return "rows of different lengths"
    return "markup" if re.search(r"(?<!\\)(<script|`x)|(?<!\\)\]\((javascript|http)|^# b", out, re.M) else ""


# Settings ------------------------------------------------------------------------------------------

_HUGE = (10**5, 10**6, 10**8, 10**9, 10**12, 10**15, 2**63, 10**30, 10**300)


def setting_attacks(chance: random.Random) -> Iterator[Attack]:
    """Every number beyond its limits, and models within them that no machine here holds."""
    limits = [
        (f"{section}.{f.name}", f.metadata["low"], f.metadata["high"], get_type_hints(kind)[f.name])
        for section, kind in SECTIONS.items()
        for f in dataclasses.fields(kind)
        if get_type_hints(kind)[f.name] in (int, float)
    ]
    large = (["model.n_layers=200", "model.hidden_size=16384"], ["model.hidden_size=16384", "model.n_layers=100"],
             ["pretrain.batch_size=65536", "pretrain.micro_batch_size=65536"],
             ["model.n_layers=150", "model.hidden_size=8192"],
             ["model.sequence_length=32768", "pretrain.micro_batch_size=4096", "pretrain.batch_size=4096"])  # fmt: skip
    while True:
        command = chance.choice((["run", "--data", "microworld"], ["plan"], ["run", "--random-baseline"]))
        if chance.random() < 0.25:
            sets = chance.choice(large)
            words = [*command[:1], *(word for text in sets for word in ("--set", text))]
            yield Attack("settings", " ".join(sets), words, says="needs about", ends=(2,))
            continue
        key, low, high, kind = chance.choice(limits)
        above = [value for value in _HUGE if value > high] or [int(high) * 10]
        value: Any = chance.choice([*above, low - 1, -(10**9)])
        value = float(value) if kind is float and chance.random() < 0.5 else int(value)
        yield Attack("settings", f"{key}={value!r}"[:80], [*command, "--set", f"{key}={value!r}"], says=key, ends=(2,))


# Weights -------------------------------------------------------------------------------------------

_TENSORS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "half": torch.Tensor.half,
    "bfloat16": torch.Tensor.bfloat16,
    "double": torch.Tensor.double,
    "int8": lambda t: t.to(torch.int8),
    "int64": lambda t: t.to(torch.int64),
    "bool": lambda t: t > 0,
    "complex": lambda t: t.to(torch.complex64),
    "sparse": torch.Tensor.to_sparse,
    "meta": lambda t: t.to("meta"),
    "expanded": lambda t: t.flatten()[:1].expand(t.numel()).view(t.shape) if t.dim() == 1 else t[:1].expand(*t.shape),
    "enormous view": lambda t: torch.zeros(1).expand(10**9),
    "part of a store": lambda t: torch.cat([t, t])[: len(t)],
    "nan": lambda t: torch.full_like(t, float("nan")),
    "one nan": lambda t: torch.cat([t.flatten()[:-1], torch.tensor([float("nan")])]).view(t.shape),
    "infinite": lambda t: torch.full_like(t, float("-inf")),
    "one row more": lambda t: torch.cat([t, t[:1]]),
    "flat": lambda t: torch.cat([t.flatten(), torch.zeros(1)]),
    "empty": lambda t: t[:0].clone(),
    "a scalar": lambda t: torch.tensor(1.0),
}


def weight_attacks(chance: random.Random, settings: tuple[str, ...]) -> Iterator[Attack]:
    """Sealed weights of the right architecture, but for one tensor, or for what describes them."""
    model = load_config("debug", settings).model
    tokenizer = TextTokenizer.train([samples.TEXT * 4], 320)
    state = dict(build_trunk(model, tokenizer.vocab_rows, seed=0).state_dict())
    run = ["run", "--config-name", "debug", "--data", "microworld", *(w for s in settings for w in ("--set", s))]
    line = [*run, "--skip-pretrain", "--freeze-llm", "--pretrained-model-path", "{folder}/given.pth"]
    good: dict[str, Any] = {
        "format": checkpoint.WEIGHTS_FORMAT, "version": checkpoint.FORMAT_VERSION, "model": dataclasses.asdict(model),
        "metadata": {"stage": "pretrained"}, "vocab_rows": tokenizer.vocab_rows, "tokenizer_json": tokenizer.to_json(),
    }  # fmt: skip
    others: dict[str, dict[str, Any]] = {
        "no tensors": {"state_dict": {}}, "a list of tensors": {"state_dict": list(state.values())},
        "text for a tensor": {"state_dict": {**state, "embedding.weight": "x"}},
        "a tensor more": {"state_dict": {**state, "x" * 100_000: torch.ones(1)}},
        "rows of text": {"vocab_rows": "320"}, "no rows": {"vocab_rows": 0}, "rows below none": {"vocab_rows": -64},
        "10^12 rows": {"vocab_rows": 10**12}, "another tokenizer": {"tokenizer_json": "{}"},
        "nested tokenizer": {"tokenizer_json": _nested(900)}, "no tokenizer": {"tokenizer_json": None},
        "layers": {"model": {**good["model"], "n_layers": 200}}, "model": {"model": {**good["model"], "norm": []}},
        "a list for metadata": {"metadata": []}, "a later version": {"version": 99}, "a checkpoint": {"format": "x"},
        "random": {"metadata": {"stage": "random"}}, "finetuned": {"metadata": {"stage": "finetuned"}},
        "counts": {"metadata": {"stage": "pretrained", "token_counts": torch.full((tokenizer.vocab_rows,), -1)}},
    }  # fmt: skip
    while True:
        if chance.random() < 0.35:
            what = chance.choice([*others])
            content = {**good, "state_dict": state, **others[what]}
        else:
            name, kind = chance.choice([*state]), chance.choice([*_TENSORS])
            what = f"{name}: {kind}"
            content = {**good, "state_dict": {**state, name: _TENSORS[kind](state[name])}}
        yield Attack("weights", what, line, {"given.pth": _sealed_weights(content)}, says="given.pth")


def _sealed_weights(content: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    stream = SealingStream(buffer)
    torch.save(content, cast(IO[bytes], stream))
    stream.seal()
    return buffer.getvalue()


# Compressed files ----------------------------------------------------------------------------------


def compressed_attacks(chance: random.Random, settings: tuple[str, ...]) -> Iterator[Attack]:
    """Files of few bytes that stand for many, archives of another kind, and ends that lie."""
    run = ["run", "--config-name", "debug", "--data", "microworld", *(w for s in settings for w in ("--set", s))]
    bank, text = samples.BANK.encode(), samples.TEXT.encode()
    bombs = {letter: gzip.compress(letter * (1 << 26)) for letter in (b"a", b"\n")}
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as members:
        members.writestr("../../x", bank)
    inflated = functools.cache(lambda: samples.parquet([{"text": "x" * 2_000_000}] * 300))  # takes a second
    packed = gzip.compress(bank)
    while True:
        cut = chance.randrange(12, len(packed) - 1)
        shapes: tuple[tuple[str, str, bytes | Callable[[], bytes], str], ...] = (
            ("a bomb of one line", "qa.jsonl.gz", bombs[b"a"], ""),
            ("a bomb of lines", "qa.jsonl.gz", bombs[b"\n"], ""),
            ("a bomb of text", "text.txt.gz", bombs[b"\n"], ""), ("a bomb behind a text", "text.txt.gz",
             gzip.compress(text) + bombs[b"\n"], ""),
            ("gzip in gzip", "qa.jsonl.gz", gzip.compress(packed), ""),
            ("a cut end", "qa.jsonl.gz", packed[:cut], "damaged"),
            ("rubbish behind", "qa.jsonl.gz", packed + chance.randbytes(50), "damaged"),
            ("a lying checksum", "qa.jsonl.gz", packed[:-8] + chance.randbytes(4) + packed[-4:], "damaged"),
            ("a lying length", "qa.jsonl.gz", packed[:-4] + b"\xff\xff\xff\x7f", "damaged"),
            ("bzip2", "qa.jsonl.bz2", bz2.compress(bank), ""), ("xz", "qa.jsonl.xz", lzma.compress(bank), ""),
            ("zip", "qa.jsonl", archive.getvalue(), ""), ("bzip2 called gz", "qa.jsonl.gz", bz2.compress(bank), ""),
            ("parquet of few bytes", "text.parquet", inflated, "rows of it take"),
            ("parquet in gzip", "text.txt.gz", lambda: gzip.compress(inflated()[: 1 << 16]), ""),
            ("a cut parquet", "text.parquet", lambda: inflated()[: len(inflated()) // 2], "damaged"),
            ("a row nested", "qa.jsonl", bank + _nested(chance.choice((257, 900, 9_000)), '{"a":', "}").encode(), ""),
            ("a row of brackets", "qa.jsonl", bank + _nested(chance.choice((450, 900, 100_000))).encode() + b"\n", ""),
            ("a JSON file nested", "qa.json", b'{"data": ' + _nested(800).encode() + b', "paragraphs": 1}', ""),
            ("a number without end", "qa.jsonl", bank.replace(b"1", b"1" + b"0" * 5_000, 1), ""),
            ("half a character", "qa.jsonl", bank.replace(b'"', b'"\\ud800', 1), ""),
        )  # fmt: skip
        what, name, content, says = chance.choice(shapes)
        flag = "--pretrain-text" if name.startswith("text") else "--qa-data"
        files = {name: content() if callable(content) else content}
        yield Attack("compressed", what, [*run, flag, "{folder}/" + name], files, says or name.partition(".")[0])
