"""Command lines that cannot work and files that no reader should trust, for :mod:`benchmarks.malformed_campaign`."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import samples

#: Smallest settings, as the tests' own.
MICRO_RUN = ("run", "--config-name", "debug", "--data", "microworld")
#: Values that no flag wants.
ODD = ("", "-1", "nan", "1e999", "x" * 5000, "\x00", "../..", "/", "~nobody/x", "\udcff", "🦄", "None", "[1", "0x10",
       "9" * 5000, "a\nb")  # fmt: skip
RUN_FLAGS = ("config-name", "pretrain-data", "finetune-samples", "seed", "layout", "finetune-data", "data", "resume",
             "pretrained-model-path", "qa-data", "pretrain-text", "nq-data", "set", "log")  # fmt: skip
#: Flags of ``run`` that an empty value leaves as not given.
_FREE = {"resume", "pretrained-model-path", "qa-data", "pretrain-text", "nq-data", "log"}
SETTINGS = ("pretrain.epochs", "model.n_heads", "model.vocab_size", "finetune.lr", "probe.ridges", "microworld.seed",
            "pretrain.precision", "evaluate.alpha", "model", "nonsense.key", "pretrain.nonsense")  # fmt: skip
WRONG = ("-1", "nan", "inf", '"x"', "[]", "{}", "true", "1e400", "9" * 400, "'", "2024-01-01", "\x00", "[" * 3000,
         "9" * 5000)  # fmt: skip
#: Program, its words before the flag, and flags that take none of the odd values.
OTHERS: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (("plan",), ("config-name", "gpu", "max-cost", "set", "seed")),
    (("sweep", "matrix-debug", "--dry-run"), ("seeds", "jobs", "set", "data", "on", "max-cost", "only")),
    (("sweep", "--dry-run"), ("",)),
    (("sweep", "status"), ("",)),
    (("sweep", "resume"), ("",)),
    (("config",), ("",)),
    (("table",), ("", "format")),
    (("figures",), ("",)),
    (("report",), ("",)),
    (("curves",), ("",)),
    (("probe-snapshots",), ("",)),
    (("list",), ("nope",)),
    (("demo",), ("seed", "nope")),
    (("cka", "--model-dir"), ("",)),
    (("cka", "--model-dir", "absent"), ("sentences", "bandwidth", "kernel", "against", "seed")),
    (("verify",), ("qa-data", "data", "finetune-data", "sample", "seed")),
    (("compile",), ("results-dir", "format")),
    (("generate", "--results-dir"), ("",)),
    (("matrix", "--dry-run"), ("seeds", "",)),
    (("modal", "--dry-run"), ("config-name", "finetune-samples", "seed", "gpu", "set", "max-cost", "layout")),
)  # fmt: skip
#: Words that are odd and yet allowed: an empty pattern, a folder that happens to hold runs.
_ALLOWED = {("sweep", "only", ""), ("matrix", "", ""), ("sweep", "", "")}


@dataclass
class Case:
    """A command line and the files it meets (content by name in the case's own folder); ``{folder}`` is replaced."""

    name: str
    words: list[str]
    files: dict[str, bytes] = field(default_factory=dict)


def flag_cases(settings: tuple[str, ...]) -> Iterator[Case]:
    """Every flag with every odd value; ``settings`` make ``run`` small."""
    run = [*MICRO_RUN, *(word for value in settings for word in ("--set", value))]
    for flag in RUN_FLAGS:
        for value in ODD:
            if value or flag not in _FREE:
                extra = ["--pretrain-data", "wiki+nq"] if flag == "nq-data" else []
                start = ["--skip-pretrain"] if flag == "pretrained-model-path" else []
                yield Case(f"--{flag} {value[:20]!r}", [*run, *extra, *start, f"--{flag}", value])
    for key in SETTINGS:
        for value in WRONG:
            yield Case(f"--set {key}={value[:20]}", [*run, "--set", f"{key}={value}"])
    for words, flags in OTHERS:
        for flag in flags:
            for value in ODD:
                if (words[0], flag, value) not in _ALLOWED:
                    given = [f"--{flag}", value] if flag else [value]
                    yield Case(f"{' '.join(words)} {flag} {value[:20]!r}", [*words, *given])
    for name in ("nope", "--nope", "run --nope", "table absent", "figures absent", "curves absent", "report absent"):
        yield Case(name, name.split())


def file_cases(
    chance: random.Random, settings: tuple[str, ...], weights: bytes, stats: bytes, tokenizer: bytes
) -> Iterator[Case]:
    """One damaged file of every kind in turn, endlessly."""
    run = [*MICRO_RUN, *(word for value in settings for word in ("--set", value))]
    rows = samples.hub_rows()
    tables = {name: samples.parquet(rows[name]) for name in rows}
    data = {
        "qa.jsonl": ("--qa-data", samples.BANK.encode()),
        "qa.jsonl.gz": ("--qa-data", samples.packed(samples.BANK)),
        "qa.qa": ("--qa-data", samples.QASRL.encode()),
        "qa.csv": ("--qa-data", samples.GOLD.encode()),
        "qa.json": ("--qa-data", samples.SQUAD.encode()),
        "nq.jsonl": ("--nq-data", samples.NQ.encode()),
        "text.txt": ("--pretrain-text", samples.TEXT.encode()),
        "text.txt.gz": ("--pretrain-text", samples.packed(samples.TEXT)),
    }
    flags = {"nq": "--nq-data", "wikitext": "--pretrain-text", "documents": "--pretrain-text"}
    data |= {f"{name}.parquet": (flags.get(name, "--qa-data"), table) for name, table in tables.items()}
    start = ["--skip-pretrain", "--freeze-llm", "--pretrained-model-path", "{folder}/toy_llm_unified_pretrained.pth"]
    while True:
        for name, (flag, content) in data.items():
            extra = ["--pretrain-data", "wiki+nq"] if flag == "--nq-data" else []
            files = {name: mutated(content, chance)}
            if name == "qa.csv":
                files["sentences.csv"] = samples.SENTENCES.encode()
            yield Case(name, [*run, *extra, flag, "{folder}/" + name], files)
        yield Case("weights", [*run, *start], {start[-1].removeprefix("{folder}/"): mutated(weights, chance)})
        for command in ("table", "report", "figures", "curves"):
            yield Case(f"{command} of a stats file", [command, "{folder}/s.json"], {"s.json": mutated(stats, chance)})
        yield Case(
            "documented stats",
            ["table", "{folder}/s.json"],
            {"s.json": mutated(json.dumps(samples.STATS).encode(), chance)},
        )
        matrix = {"m.toml": mutated(samples.MATRIX.encode(), chance)}
        yield Case("matrix", ["sweep", "{folder}/m.toml", "--dry-run"], matrix)
        record = {"runs/.sweeps/m-1.json": mutated(stats, chance)}
        yield Case("record", ["sweep", "status", "m-1", "--runs-dir", "{folder}/runs"], record)
        yield Case(
            "verify", ["verify", "--qa-data", "{folder}/qa.qa"], {"qa.qa": mutated(samples.QASRL.encode(), chance)}
        )
        run_files = {"run/spec.json": mutated(stats, chance), "run/tokenizer.json": mutated(tokenizer, chance)}
        yield Case("run directory", ["probe-snapshots", "{folder}/run"], run_files)
        yield Case("run directory", ["cka", "--model-dir", "{folder}/run"], run_files)


def run_cases(chance: random.Random, finished: Path) -> Iterator[Case]:
    """A finished run with one damaged file, for every command that reads one, endlessly."""
    files = {f"run/{p.relative_to(finished).as_posix()}": p.read_bytes() for p in finished.rglob("*") if p.is_file()}
    commands = (
        ["probe-snapshots", "{folder}/run", "--loss-tokens", "-1"],
        ["cka", "--model-dir", "{folder}/run", "--sentences", "20", "--random-seeds", "-1"],
        ["table", "{folder}/run"],
        ["curves", "{folder}/run"],
        ["run", "--resume", "run", "--runs-dir", "{folder}"],
    )
    while True:
        for name, content in files.items():
            words = list(chance.choice(commands))
            yield Case(f"{words[0]} with {name}", words, {**files, name: mutated(content, chance)})


def mutated(content: bytes, chance: random.Random) -> bytes:
    """``content`` damaged in one of many ways: cut, bytes replaced, NUL, wrong encoding, nesting, other types."""
    kind = chance.randrange(10)
    at = chance.randrange(len(content))
    if kind == 0:
        return content[:at]
    if kind == 1:
        return content[:at] + b"\0" + content[at:]
    if kind == 2:
        return content[:at] + b"\xff\xfe" + content[at:]
    if kind == 3:
        return content.decode("latin-1").encode("utf-16")
    if kind == 4:
        return b"\x1f\x8b" + content[at:]
    if kind == 5:
        return b"PAR1" + content[at:]
    if kind == 6:
        return b"[" * 100_000
    if kind == 7:
        words = (b"null", b"-1", b"[]", b"1e999", b'"x"', b"{}", b"99999999999999999999", b"NaN", b"9" * 5000)
        digits = [i for i, byte in enumerate(content) if 48 <= byte < 58] or [at]
        place = chance.choice(digits)
        return content[:place] + chance.choice(words) + content[place + 1 :]
    if kind == 8:
        return content.replace(b'"', b'"\\ud800', 7).replace(b"e", "e\u0301\u200b".encode(), 5)
    damaged = bytearray(content)
    for _ in range(8):
        damaged[chance.randrange(len(content))] = chance.randrange(256)
    return bytes(damaged)
