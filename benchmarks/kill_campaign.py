"""Kill `emergence run` with SIGKILL at random moments, start it again, and compare with an undisturbed run.

Two experiments on the micro-world, small enough for seconds: one trains all weights, one probes the frozen trunk.
Each is run undisturbed once. Then it is started in a fresh folder and killed: a phase is drawn, and a moment within
it from the phase's length in the undisturbed run. After a few kills the same command is left to finish, and every
file must be the undisturbed run's byte for byte. Left out of that are only wall-clock times: ``timings.jsonl``, the
manifest (it holds the checksum of the former), and two entries of ``finetune_stats.json``.

    python benchmarks/kill_campaign.py --kills 10 --seed 0 --json kills.json

Exit code 1 on any difference, or if a restarted run fails.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from emergence.experiment.store import RunDirectory
from emergence.files import folder_files

FLAGS = ("--config-name", "debug", "--data", "microworld")
SETTINGS = (
    "model.n_layers=2",
    "model.hidden_size=32",
    "model.vocab_size=500",
    "model.sequence_length=96",
    "pretrain.samples_per_epoch=600",
    "pretrain.batch_size=8",
    "pretrain.evaluations_per_epoch=3",
    "pretrain.validation_tokens=2048",
    "pretrain.step_snapshots=4",
    "pretrain.log_every_steps=3",
    "pretrain.checkpoint_every_steps=7",
    "pretrain.compile=off",
    "finetune.epochs=3",
    "finetune.batch_size=32",
    "finetune.checkpoint_every_steps=5",
    "finetune.log_every_steps=3",
    "probe.epochs=6",
    "probe.ridges=[0.01,0.1]",
    "probe.max_iterations=30",
    "evaluate.bootstrap_draws=4000",
    "microworld.text_documents=400",
    "microworld.train_documents=60",
    "microworld.validation_documents=20",
    "microworld.test_documents=20",
)
#: Experiment -> what distinguishes it, and its phases in order.
EXPERIMENTS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "full": ((), ("inputs", "pretraining", "finetuning", "evaluation")),
    "frozen": (("--freeze-llm",), ("inputs", "pretraining", "probing", "evaluation")),
}
#: Files that tell the wall-clock time, and the entries of the stats that do.
CLOCK_FILES = {"timings.jsonl", "MANIFEST.json"}
CLOCK_KEYS = ("seconds", "tokens_per_second", "sha256")
POLL_SECONDS = 0.002


@dataclass
class Reference:
    """An undisturbed run: where it is, and how long each phase took (seconds)."""

    path: Path
    seconds: dict[str, float]


@dataclass
class Round:
    """One experiment, killed several times and then left to finish.

    Attributes:
        kills: Phase that the run was in at each death, in order.
        differences: Files that are not the undisturbed run's, and other complaints; empty when all is well.
    """

    experiment: str
    kills: list[str] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)
    files_compared: int = 0
    bytes_compared: int = 0


def main() -> int:
    options = _options()
    rng = np.random.default_rng(options.seed)
    work = Path(tempfile.mkdtemp(prefix="kill-campaign-"))
    started = time.monotonic()
    rounds: list[Round] = []
    try:
        references = {name: undisturbed(name, work / f"undisturbed-{name}") for name in options.experiments}
        for name, found in references.items():
            phases = ", ".join(f"{phase} {seconds:.1f} s" for phase, seconds in found.seconds.items())
            print(f"undisturbed {name}: {phases}")
        hits: Counter[str] = Counter()
        while hits.total() < options.kills:
            name = options.experiments[len(rounds) % len(options.experiments)]
            wanted = min(options.per_round, options.kills - hits.total())
            done = killed(name, references[name], work / f"round-{len(rounds)}", wanted, rng, hits)
            rounds.append(done)
            verdict = "; ".join(done.differences) or f"identical ({done.files_compared} files)"
            print(f"round {len(rounds):>3} {name:<7} killed in {', '.join(done.kills)}: {verdict}", flush=True)
    finally:
        if options.keep:
            print(f"kept {work}")
        else:
            shutil.rmtree(work, ignore_errors=True)
    return report(rounds, time.monotonic() - started, options)


def undisturbed(name: str, root: Path) -> Reference:
    """Run one experiment to its end and time its phases by the files it writes."""
    root.mkdir(parents=True)
    process, phases = _start(name, root), EXPERIMENTS[name][1]
    begun = {phases[0]: time.monotonic()}
    while process.poll() is None:
        if run := _run_in(root):
            begun.setdefault(phase_of(run, name), time.monotonic())
        time.sleep(POLL_SECONDS)
    if process.returncode:
        raise SystemExit(f"the undisturbed {name} run failed: {_complaint(process)}")
    moments = [*(begun[phase] for phase in phases), time.monotonic()]
    seconds = {phase: moments[i + 1] - moments[i] for i, phase in enumerate(phases)}
    run = _run_in(root)
    assert run is not None
    return Reference(run, seconds)


def killed(
    name: str, reference: Reference, root: Path, kills: int, rng: np.random.Generator, hits: Counter[str]
) -> Round:
    """Kill the experiment ``kills`` times, let it finish, and compare; adds to ``hits``."""
    run, phases, done = root / reference.path.name, EXPERIMENTS[name][1], Round(name)
    # The weights name their run, so the runs must have one name. A run that exists is gone on with by its own command.
    run.mkdir(parents=True)
    shutil.copy2(reference.path / "spec.json", run / "spec.json")
    for target in _targets(phases, kills, rng, hits):
        if phases.index(phase_of(run, name)) > phases.index(target):
            continue  # a kill that came late: the phase is over
        process = _start(name, root)
        if not _kill_in(process, run, name, target, float(rng.uniform(0, reference.seconds[target]))):
            break  # it finished first, or failed
        done.kills.append(phase_of(run, name))
        hits[done.kills[-1]] += 1
    process = _start(name, root)
    process.wait()
    if process.returncode:
        done.differences.append(f"the restarted run failed: {_complaint(process)}")
    else:
        compare(reference.path, run, done)
    return done


def _targets(phases: tuple[str, ...], kills: int, rng: np.random.Generator, hits: Counter[str]) -> list[str]:
    """Phases to kill in, in their order: drawn among those hit least so far."""
    planned, targets = Counter(hits), []
    for _ in range(kills):
        rarest = min(planned[phase] for phase in phases)
        targets.append(str(rng.choice([phase for phase in phases if planned[phase] == rarest])))
        planned[targets[-1]] += 1
    return sorted(targets, key=phases.index)


def _kill_in(process: subprocess.Popen[bytes], run: Path, name: str, target: str, delay: float) -> bool:
    """SIGKILL ``delay`` seconds after ``target`` begins; False if the process ended by itself before that."""
    phases = EXPERIMENTS[name][1]
    while process.poll() is None and phases.index(phase_of(run, name)) < phases.index(target):
        time.sleep(POLL_SECONDS)
    try:
        process.wait(timeout=delay)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return True
    return False


def phase_of(run: Path, name: str) -> str:
    """What a run has yet to write tells the phase that it is in."""
    phases = EXPERIMENTS[name][1]
    marks = ("tokenizer.json", "toy_llm_unified_pretrained.pth", "toy_llm_qasrl_finetuned.pth")
    return next((phase for phase, mark in zip(phases, marks, strict=False) if not (run / mark).exists()), phases[-1])


def compare(reference: Path, run: Path, done: Round) -> None:
    """Every file of the undisturbed run against the killed one's, and the killed one's own checksums."""
    wanted, got = ({p.relative_to(r).as_posix(): p for p in folder_files(r)} for r in (reference, run))
    for file in sorted(wanted.keys() ^ got.keys()):
        done.differences.append(f"{file} is only in the {'undisturbed' if file in wanted else 'killed'} run")
    for file in sorted((wanted.keys() & got.keys()) - CLOCK_FILES):
        left, right = wanted[file].read_bytes(), got[file].read_bytes()
        if file == "finetune_stats.json":
            same = _without_clock(left) == _without_clock(right)
        else:
            same = left == right
        if not same:
            done.differences.append(f"{file} differs")
        done.files_compared += 1
        done.bytes_compared += len(left)
    done.differences += RunDirectory.open(run).verify_manifest()


def _without_clock(stats: bytes) -> dict[str, object]:
    return {key: value for key, value in json.loads(stats).items() if key not in CLOCK_KEYS}


def report(rounds: list[Round], seconds: float, options: argparse.Namespace) -> int:
    """Print and write what was found; the exit code."""
    by_phase = Counter(phase for one in rounds for phase in one.kills)
    differing = [one for one in rounds if one.differences]
    print("\nkilled during   times")
    for phase in dict.fromkeys(phase for _, phases in EXPERIMENTS.values() for phase in phases):
        print(f"  {phase:<13} {by_phase[phase]:>5}")
    identical = len(rounds) - len(differing)
    print(f"{by_phase.total()} kills, {identical} of {len(rounds)} runs identical to undisturbed ones, {seconds:.0f} s")
    if options.json:
        content = {
            "kills": by_phase.total(),
            "by_phase": dict(by_phase),
            "identical_runs": identical,
            "rounds": [asdict(one) for one in rounds],
            "seed": options.seed,
            "seconds": seconds,
        }
        options.json.write_text(json.dumps(content, indent=2) + "\n")
    return 1 if differing else 0


def _start(name: str, root: Path) -> subprocess.Popen[bytes]:
    settings = [word for setting in SETTINGS for word in ("--set", setting)]
    command = [sys.executable, "-m", "emergence.cli", "run", *FLAGS, *EXPERIMENTS[name][0], *settings]
    with (root / "output.txt").open("ab") as output:
        return subprocess.Popen(
            [*command, "--runs-dir", str(root)],
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
        )


def _run_in(root: Path) -> Path | None:
    return next((file.parent for file in root.glob("*/spec.json")), None)


def _complaint(process: subprocess.Popen[bytes]) -> str:
    root = Path(str(process.args[-1]))  # type: ignore[index]
    lines = (root / "output.txt").read_text(errors="replace").strip().splitlines()
    return f"exit {process.returncode}: {lines[-1] if lines else 'no output'}"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--kills", type=int, default=10, help="kills in all")
    parser.add_argument("--per-round", type=int, default=4, help="most kills before a run is left to finish")
    parser.add_argument("--experiments", nargs="+", choices=EXPERIMENTS, default=list(EXPERIMENTS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, default=None, metavar="FILE", help="write the outcome there too")
    parser.add_argument("--keep", action="store_true", help="keep the run directories")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
