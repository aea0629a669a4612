"""Hundreds of malformed inputs through the command line: exit code 1 or 2, one line, nothing written, fast.

    python benchmarks/malformed_campaign.py --cases 700 --out malformed.json

All run in this process through :func:`emergence.cli.run` (imports are paid once). A case is a command and the files
it meets; damaged files are made from valid ones by the seeded mutations below.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from micro_run import MICRO, micro_run

from emergence.cli import run
from emergence.files import write_json_atomic

MOST_SECONDS = 1.0
RUN = ["run", "--config-name", "debug", "--data", "microworld", *(x for value in MICRO for x in ("--set", value))]
BANK = (
    '{"sentenceId": "a:1", "sentenceTokens": ["Dogs", "eat", "meat", "."], "verbEntries": {"1": {"verbIndex": 1, '
    '"verbInflectedForms": {"stem": "eat"}, "questionLabels": {"q": {"questionString": "What eats something?", '
    '"questionSources": ["t"], "answerJudgments": [{"sourceId": "w", "isValid": true, "spans": [[0, 1]]}], '
    '"questionSlots": {"wh": "what", "aux": "_", "subj": "_", "verb": "presentSingular3rd", "obj": "something", '
    '"prep": "_", "obj2": "_"}}}}}}\n'
)
QASRL = "W_1\t1\nDogs eat meat .\n1\teat\t1\nwhat\t_\t_\teats\tsomething\t_\t_\t?\tDogs\n\n"
GOLD = "qasrl_id,verb_idx,question,answer_range,answer\na:1,1,What eats something?,0:1,Dogs\n"
SQUAD = (
    '{"version": "1", "data": [{"title": "t", "paragraphs": [{"context": "Dogs eat meat.", "qas": [{"id": "1", '
    '"question": "Who?", "answers": [{"text": "Dogs", "answer_start": 0}]}]}]}]}'
)
NQ = '{"question": "who wrote it", "answer": ["me"]}\n'
#: Values that no flag wants.
ODD = ("", "-1", "nan", "1e999", "x" * 5000, "\x00", "../..", "/", "~nobody/x", "\udcff", "🦄", "None", "[1", "0x10")
FLAGS = ("config-name", "pretrain-data", "finetune-samples", "seed", "layout", "finetune-data", "data", "resume",
         "pretrained-model-path", "qa-data", "pretrain-text", "nq-data", "set", "log")  # fmt: skip
SETTINGS = ("pretrain.epochs", "model.n_heads", "model.vocab_size", "finetune.lr", "probe.ridges", "microworld.seed",
            "pretrain.precision", "evaluate.alpha", "model", "nonsense.key", "pretrain.nonsense")  # fmt: skip
WRONG = ("-1", "nan", "inf", '"x"', "[]", "{}", "true", "1e400", "9" * 400, "'", "2024-01-01", "\x00")


@dataclass
class Case:
    """A command line and the file it meets, if any (its content, under a name in the case's own folder)."""

    name: str
    words: list[str]
    files: dict[str, bytes] = field(default_factory=dict)


def cases(seed: int, finished: Path) -> Iterator[Case]:
    """Endless; flags first, then files of every format in turn."""
    chance = random.Random(seed)
    for flag in FLAGS:
        for value in ODD:
            if _is_wrong(flag, value):
                yield Case(f"--{flag} {value[:20]!r}", [*RUN, f"--{flag}", value])
    for key in SETTINGS:
        for value in WRONG:
            yield Case(f"--set {key}={value[:20]}", [*RUN, "--set", f"{key}={value}"])
    for words in (["list", "--nope"], ["nope"], ["config", "huge"], ["table", "absent"], ["figures", "absent"]):
        yield Case(" ".join(words), words)
    weights = (finished / "toy_llm_unified_pretrained.pth").read_bytes()
    stats = (finished / "finetune_stats.json").read_bytes()
    sources = {
        "qa.jsonl": ("--qa-data", BANK * 3), "qa.qa": ("--qa-data", QASRL * 3), "qa.csv": ("--qa-data", GOLD),
        "qa.json": ("--qa-data", SQUAD), "nq.jsonl": ("--nq-data", NQ * 3), "text.txt": ("--pretrain-text", "A b c.\n"),
    }  # fmt: skip
    while True:
        for name, (flag, text) in sources.items():
            content = mutated(text.encode(), chance)
            extra = ["--pretrain-data", "wiki+nq"] if flag == "--nq-data" else []
            yield Case(f"{name}", [*RUN, *extra, flag, "{folder}/" + name], {name: content})
        start = ["--skip-pretrain", "--freeze-llm", "--pretrained-model-path", "{folder}/w.pth"]
        yield Case("weights", [*RUN, *start], {"w.pth": mutated(weights, chance)})
        yield Case("stats", ["table", "{folder}/s.json"], {"s.json": mutated(stats, chance)})


def _is_wrong(flag: str, value: str) -> bool:
    free = {"resume", "pretrained-model-path", "qa-data", "pretrain-text", "nq-data", "log"}
    return bool(value) or flag not in free


def mutated(content: bytes, chance: random.Random) -> bytes:
    """``content`` damaged in one of many ways: cut, bytes replaced, NUL, wrong encoding, nesting, other types."""
    kind = chance.randrange(9)
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
        words = (b"null", b"-1", b"[]", b"1e999", b'"x"', b"{}", b"99999999999999999999", b"NaN")
        digits = [i for i, byte in enumerate(content) if 48 <= byte < 58] or [at]
        place = chance.choice(digits)
        return content[:place] + chance.choice(words) + content[place + 1 :]
    damaged = bytearray(content)
    for _ in range(8):
        damaged[chance.randrange(len(content))] = chance.randrange(256)
    return bytes(damaged)


def judge(case: Case, scratch: Path) -> tuple[str, str]:
    """``(verdict, output)``; the verdict is ``refused``, ``valid`` (a mutation that did no harm), or what was wrong."""
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    for name, content in case.files.items():
        (scratch / name).write_bytes(content)
    runs = scratch / "runs"
    words = [word.replace("{folder}", str(scratch)) for word in case.words]
    if words[0] == "run":
        words += ["--runs-dir", str(runs)]
        runs.mkdir()
        (runs / ".cache").symlink_to(os.environ["EMERGENCE_CACHE"])  # filled: making data is not what is timed
    out, err = io.StringIO(), io.StringIO()
    started, code, escaped = time.monotonic(), 0, ""
    cpu = time.process_time()
    argv, sys.argv = sys.argv, ["emergence", *words]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), stopped_before_training():
        try:
            run()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        except _WouldRunError:
            code = 0
        except BaseException as error:
            escaped = f"{type(error).__name__}: {error}"
    sys.argv = argv
    seconds, cpu = time.monotonic() - started, time.process_time() - cpu
    lines = [line for line in err.getvalue().splitlines() if line.strip()]
    told = "\n".join(lines)
    if escaped:
        return f"escaped: {escaped[:300]}", told
    if code == 0:
        return "valid", told
    written = [p for p in runs.glob("*") if not p.name.startswith(".")] if runs.exists() else []
    errors = [line for line in lines if line.lower().startswith("error")]
    if code not in (1, 2):
        return f"exit code {code}", told
    if "Traceback" in told or (errors and len(lines) - lines.index(errors[0]) != 1):
        return "more than one line", told
    if not errors:
        return "no error line", told
    if any(written):
        return "wrote something", told
    return ("refused", told) if min(seconds, cpu) <= MOST_SECONDS else (f"took {seconds:.1f} s", told)


class _WouldRunError(BaseException):
    """The input was accepted; training itself is not what is tested here."""


@contextlib.contextmanager
def stopped_before_training() -> Iterator[None]:
    from emergence.experiment import run as module

    opened = module._open
    read = module.read_inputs

    def stop(*args: object, **kwargs: object) -> None:
        raise _WouldRunError

    module._open = stop  # type: ignore[assignment]
    try:
        yield
    finally:
        module._open, module.read_inputs = opened, read


def campaign(count: int, seed: int, scratch: Path) -> dict[str, object]:
    """Run ``count`` cases; every verdict beside ``refused`` and ``valid`` is listed with its output."""
    os.environ["EMERGENCE_CACHE"] = str(scratch / "finished" / "cache")
    finished = scratch / "finished" / "runs" / micro_run(scratch / "finished")
    verdicts: dict[str, int] = {}
    wrong = []
    for _, case in zip(range(count), cases(seed, finished), strict=False):
        verdict, told = judge(case, scratch / "case")
        key = verdict if verdict in ("refused", "valid") else "wrong"
        verdicts[key] = verdicts.get(key, 0) + 1
        if key == "wrong":
            wrong.append({"case": case.name, "words": case.words[-4:], "verdict": verdict, "told": told[-600:]})
    return {"cases": sum(verdicts.values()), **verdicts, "problems": wrong}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--cases", type=int, default=700)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        report = campaign(args.cases, args.seed, Path(scratch))
    if args.out:
        write_json_atomic(args.out, report)
    print(json.dumps({key: value for key, value in report.items() if key != "problems"}))
    sys.exit(1 if report["problems"] else 0)


if __name__ == "__main__":
    main()
