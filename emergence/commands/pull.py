"""``emergence pull``, without Typer too: a laptop with ``pip install modal`` alone launches, so it has to fetch."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from emergence.commands.before import named
from emergence.experiment.store import refuse_if_no_folder
from emergence.remote.pull import Part, pull_run
from emergence.wording import in_line, say

ABOUT = "Fetch a finished run from Modal: verified against its manifest, resumable, never overwriting."
#: What each argument and flag of the command means.
RUN_HELP = "Name of the run on the volume (see --list-saved)."
TO_HELP = "Folder of run directories to put it in."
ONLY_HELP = "stats: all but weights. weights: the .pth files."
PARTS: tuple[Part, ...] = ("stats", "weights", "all")


def pull(run_id: str, to: Path, only: Part) -> None:
    """Fetch a run and tell what was done.

    Raises:
        EmergenceError: As :func:`emergence.remote.pull.pull_run`; Modal cannot be asked.
    """
    refuse_if_no_folder(to, "--to")
    from emergence.remote.client import VolumeFiles, reach_modal

    reach_modal()
    pulled = pull_run(
        VolumeFiles(), run_id, to, only, lambda name, size: say(f"{size / 2**20:8.1f} MiB  {in_line(name)}", err=True)
    )
    fetched, there = len(pulled.downloaded), len(pulled.present)
    say(f"{in_line(str(pulled.folder))}: {fetched} files fetched, {there} already here, all verified")


def pull_without_typer(words: Sequence[str]) -> None:
    """``python -m emergence pull WORDS`` where Typer is not installed."""
    parser = argparse.ArgumentParser(prog="python -m emergence pull", description=ABOUT)
    parser.add_argument("run", metavar="RUN", help=RUN_HELP)
    parser.add_argument("--to", type=named("--to"), default=Path("runs"), help=TO_HELP)
    parser.add_argument("--only", choices=PARTS, default="all", help=ONLY_HELP)
    flags = parser.parse_args(words)
    pull(flags.run, flags.to, flags.only)
