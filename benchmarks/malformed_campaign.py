"""Hundreds of malformed inputs through the command line: exit code 1 or 2, one line, nothing written, fast.

    python -m benchmarks.malformed_campaign --cases 1000 --out malformed.json

All run in this process through the entry points themselves (imports are paid once). What is accepted is stopped before
it trains. The cases are in :mod:`benchmarks.malformed_cases`.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib
import importlib.util
import io
import itertools
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from benchmarks.malformed_cases import Case, file_cases, flag_cases, run_cases
from emergence.errors import UnreachableError
from emergence.files import write_json_atomic

MOST_SECONDS = 1.0
#: A case that takes longer is stopped: it hangs.
_GIVE_UP_SECONDS = 20
_ERROR_LINE = re.compile(r"(\S+: )?error: .*\S", re.IGNORECASE)
ROOT = Path(__file__).resolve().parents[1]


@dataclass
class Tally:
    """Verdicts by name, and everything that was neither refused properly nor valid."""

    verdicts: dict[str, int] = field(default_factory=dict)
    problems: list[dict[str, Any]] = field(default_factory=list)

    def add(self, case: Case, verdict: str, told: str) -> None:
        key = verdict if verdict in ("refused", "valid") else "wrong"
        self.verdicts[key] = self.verdicts.get(key, 0) + 1
        if key == "wrong":
            words = [word[:80] for word in case.words[-4:]]
            self.problems.append({"case": case.name, "words": words, "verdict": verdict, "told": told[-600:]})


def judge_all(cases: Iterable[Case], cache: Path, scratch: Path, say: Callable[[str], None] | None = None) -> Tally:
    """Judge every case in a fresh folder ``scratch``; ``cache`` holds derived data, so that making it is not timed."""
    tally, here = Tally(), Path.cwd()
    try:
        for case in cases:
            verdict, told = judge(case, cache, scratch)
            tally.add(case, verdict, told)
            if say and verdict not in ("refused", "valid"):
                say(f"{case.name}: {verdict} | {told[-300:]}")
    finally:
        os.chdir(here)
    return tally


def judge(case: Case, cache: Path, scratch: Path) -> tuple[str, str]:
    """``(verdict, output)``; the verdict is ``refused``, ``valid`` (a mutation that did no harm), or what was wrong."""
    shutil.rmtree(scratch, ignore_errors=True)
    for name, content in case.files.items():
        (scratch / name).parent.mkdir(parents=True, exist_ok=True)
        (scratch / name).write_bytes(content)
    (scratch / "runs").mkdir(parents=True, exist_ok=True)
    for folder in (scratch, scratch / "runs"):
        (folder / ".cache").symlink_to(cache)
    os.chdir(scratch)
    words = [word.replace("{folder}", str(scratch)) for word in case.words]
    before = _files(scratch)
    wall, cpu = time.monotonic(), time.process_time()
    code, _, told, escaped = called(words)
    seconds = min(time.monotonic() - wall, time.process_time() - cpu)
    lines = [line for line in told.splitlines() if line.strip()]
    if escaped:
        return f"escaped: {escaped[:300]}", told
    if code == 0:
        return "valid", told
    if code not in (1, 2):
        return f"exit code {code}", told
    errors = [line for line in lines if _ERROR_LINE.fullmatch(line)]
    if "Traceback" in told or (errors and lines[-1] != errors[0]):
        return "more than one line", told
    if not errors:
        return "no error line", told
    if new := _files(scratch) - before:
        return f"wrote {sorted(new)[:3]}", told
    return ("refused", told) if seconds <= MOST_SECONDS else (f"took {seconds:.1f} s", told)


def _files(folder: Path) -> set[tuple[str, int]]:
    """Files below ``folder`` with their sizes; the derived data, which is behind a link, is none of them."""
    return {
        (str(path.relative_to(folder)), path.stat().st_size)
        for path in folder.rglob("*")
        if path.is_file() and ".cache" not in path.parts
    }


class _WouldRunError(BaseException):
    """The input was accepted; training itself is not what is tested here."""


class _HangsError(BaseException):
    """The case does not end."""


def called(words: list[str]) -> tuple[int, str, str, str]:
    """Exit code, standard output, standard error, and what escaped, of one command in this process."""

    def stop(number: int, frame: object) -> None:
        raise _HangsError(f"hangs: more than {_GIVE_UP_SECONDS} s")

    out, err, code, escaped = io.StringIO(), io.StringIO(), 0, ""
    argv, handler = sys.argv, signal.signal(signal.SIGALRM, stop)
    signal.alarm(_GIVE_UP_SECONDS)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), stopped_before_training():
            program, sys.argv = program_of(words)
            program()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except _WouldRunError:
        pass
    except BaseException as error:
        escaped = f"{type(error).__name__}: {error}"
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, handler)
        sys.argv = argv
    return code, out.getvalue(), err.getvalue(), escaped


def program_of(words: list[str]) -> tuple[Callable[[], object], list[str]]:
    """The entry point that ``words`` call, and its command line."""
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    name, rest = words[0], words[1:]
    if name == "cka":
        module = _entry_point("temporal_cka_analysis")
        return lambda: sys.exit(_client().run_as_program(module.__doc__)), [
            "temporal_cka_analysis.py",
            *rest,
        ]
    if name == "modal":
        module = _entry_point("pretrain_wikitext_finetune_qasrl_modal")
        file = str(module.__file__)
        return lambda: _client().check_flags_first(file, module.__doc__), ["modal", "run", file, *rest]
    from emergence.cli import run

    if name == "verify":
        module = importlib.import_module("verify_qasrl_alignment")
        return lambda: run(module.app), ["verify_qasrl_alignment.py", *rest]
    if name == "compile":
        module = importlib.import_module("scripts.compile_results")
        return lambda: run(module.app), ["compile_results.py", *rest]
    if name == "generate":
        module = importlib.import_module("scripts.generate_figures")
        return lambda: run(module.app), ["generate_figures.py", *rest]
    if name == "matrix":
        module = importlib.import_module("emergence.commands.sweep_app")
        return lambda: run(module.app), ["run_matrix.py", *rest]
    return run, ["emergence", *words]


@functools.cache
def _entry_point(name: str) -> ModuleType:
    """An entry point of Modal under a name and with an app of its own: an app takes one ``main``."""
    remote, modal = importlib.import_module("emergence.remote.app"), importlib.import_module("modal")
    found = importlib.util.spec_from_file_location(f"malformed_{name}", ROOT / f"{name}.py")
    assert found and found.loader
    module = importlib.util.module_from_spec(found)
    app, remote.app = remote.app, modal.App("malformed")  # type: ignore[attr-defined]
    try:
        found.loader.exec_module(module)
    finally:
        remote.app = app  # type: ignore[attr-defined]
    return module


def _client() -> Any:
    return importlib.import_module("emergence.remote.client")


@contextlib.contextmanager
def stopped_before_training() -> Iterator[None]:
    """A run that has read its inputs, and a probing that has found its snapshots, goes no further. Modal is away."""
    run, client = importlib.import_module("emergence.experiment.run"), _client()
    opened, reach = run._open, client.reach_modal

    def stop(*args: object, **kwargs: object) -> None:
        raise _WouldRunError

    def nobody() -> None:
        raise UnreachableError("Modal is not asked here")

    run._open, client.reach_modal = stop, nobody  # type: ignore[attr-defined]
    try:
        yield
    finally:
        run._open, client.reach_modal = opened, reach  # type: ignore[attr-defined]


def campaign(count: int, seed: int, scratch: Path) -> dict[str, Any]:
    """All flag cases, then damaged files of every kind, then damaged runs, ``count`` cases in all."""
    from tests.small_runs import MICRO, micro_run

    finished = scratch / "runs" / micro_run(scratch)
    chance = random.Random(seed)
    weights, stats, tokenizer = (
        (finished / name).read_bytes()
        for name in ("toy_llm_unified_pretrained.pth", "finetune_stats.json", "tokenizer.json")
    )
    flags = list(flag_cases(MICRO))
    left = max(0, count - len(flags))
    files = itertools.islice(file_cases(chance, MICRO, weights, stats, tokenizer), left - left // 3)
    runs = itertools.islice(run_cases(chance, finished), left // 3)
    every = itertools.islice(itertools.chain(flags, files, runs), count)
    tally = judge_all(
        every, scratch / "cache", scratch / "of" / "one" / "case", lambda line: print(line, file=sys.stderr, flush=True)
    )
    return {"cases": sum(tally.verdicts.values()), **tally.verdicts, "problems": tally.problems}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--cases", type=int, default=1_500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    out = args.out.absolute() if args.out else None
    with tempfile.TemporaryDirectory() as scratch:
        report = campaign(args.cases, args.seed, Path(scratch).resolve())
    conclude(report, out)


def conclude(report: Mapping[str, Any], out: Path | None) -> NoReturn:
    """Write a campaign's report, print its figures, and end the process: with 1 where there were problems."""
    if out:
        write_json_atomic(out, report)
    print(json.dumps({key: value for key, value in report.items() if key != "problems"}))
    sys.exit(1 if report["problems"] else 0)


if __name__ == "__main__":
    main()
