"""How long experiments take on this machine's CPU: the one estimate of every command that gives one.

It is a range, because machines of equally many cores differ, and it needs no torch. Standard library only.
"""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass, replace

from emergence.environment import threads_asked_for, usable_cores
from emergence.errors import UsageError
from emergence.spec.cost import PROBE_SECONDS
from emergence.spec.experiment import ExperimentSpec
from emergence.spec.workload import Workload, workload_of
from emergence.wording import counted, duration, says_yes, time_range

#: FLOP/s that one core sustains in training: on a slow or throttled machine, commonly, and on a fast one
#: (docs/methods.md#cost).
SLOW_CORE, COMMON_CORE, FAST_CORE = 30e9, 50e9, 100e9
#: Cores beyond these hardly help models of these sizes; and what each further core adds at least.
MOST_CORES, LEAST_SPEEDUP = 8, 0.5
#: Seconds of one core besides the products of matrices: a run's reading, baselines and intervals.
FAST_RUN_SECONDS, SLOW_RUN_SECONDS = 5.0, 25.0
#: The same for all probes of a frozen trunk, for a training question, layer and unit of width.
FAST_PROBE_SECONDS, SLOW_PROBE_SECONDS = PROBE_SECONDS, 6e-5
#: Other work is worth a word when it takes this share of the cores.
BUSY = 0.5
#: A longer run asks first, or needs ``--yes``.
ASK_ABOVE_SECONDS = 3600.0


@dataclass(frozen=True)
class Machine:
    """The machine that estimates are for.

    Attributes:
        cores: Cores that a run may use.
        load: Processes that want to run now, on average; None where it is unknown.
        has_gpu: Whether it has a GPU, on which a run takes far less than the estimate.
    """

    cores: int
    load: float | None = None
    has_gpu: bool = False

    @property
    def busy(self) -> float:
        """How many times as long work takes that shares the cores with what runs now; 1 on an idle machine."""
        share = (self.load or 0.0) / self.cores
        return 1.0 + share if share >= BUSY else 1.0

    def __str__(self) -> str:
        busy = f", busy now: load {self.load:.1f}" if self.busy > 1.0 else ""
        text = f"this machine's CPU ({counted(self.cores, 'core')}{busy})"
        return f"{text}; far less on its GPU" if self.has_gpu else text


def this_machine() -> Machine:
    """The cores that this process may use, and how busy they are."""
    cores = usable_cores()
    cores = min(cores, threads_asked_for() or cores)
    try:
        load = os.getloadavg()[0]
    except (AttributeError, OSError):  # Windows has none
        load = None
    return Machine(cores, load, has_gpu=shutil.which("nvidia-smi") is not None)


@dataclass(frozen=True)
class CoreTime:
    """Seconds of one core that work takes: at least, and at most."""

    least: float = 0.0
    most: float = 0.0

    def __add__(self, other: CoreTime) -> CoreTime:
        return CoreTime(self.least + other.least, self.most + other.most)

    def on(self, machine: Machine) -> tuple[float, float]:
        """Seconds that the work takes on ``machine``, at least and at most."""
        cores = min(machine.cores, MOST_CORES)
        return self.least / cores, machine.busy * self.most / (1 + LEAST_SPEEDUP * (cores - 1))

    def text(self, machine: Machine) -> str:
        """``3 to 11 h on this machine's CPU (2 cores)``, and what other work may make of it."""
        idle = replace(machine, load=None)
        text = f"{time_range(*self.on(idle))} on {idle}"
        if machine.busy > 1.0:
            text += f"; it is busy now (load {machine.load:.1f}), and like that up to {duration(self.on(machine)[1])}"
        return text


def core_time(spec: ExperimentSpec, *, has_trunk: bool = False) -> CoreTime:
    """The estimate for one run, with local data files counted by their sizes.

    Args:
        has_trunk: Another run has its trunk, so nothing is pretrained.
    """
    return core_time_of(workload_of(spec, has_trunk=has_trunk, look_at_files=True))


def core_time_of(work: Workload) -> CoreTime:
    """The estimate for what a run reads."""
    return CoreTime(
        work.flop / FAST_CORE + FAST_RUN_SECONDS + work.probed * FAST_PROBE_SECONDS,
        work.flop / SLOW_CORE + SLOW_RUN_SECONDS + work.probed * SLOW_PROBE_SECONDS,
    )


def ask_if_long(work: CoreTime, machine: Machine, yes: bool) -> None:
    """Let a person agree to what may take more than an hour. Without a terminal nobody is asked, and it goes on.

    Args:
        yes: The person has agreed already, by ``--yes``.

    Raises:
        UsageError: The answer is no.
    """
    if yes or machine.has_gpu or work.on(machine)[1] <= ASK_ABOVE_SECONDS or not sys.stdin.isatty():
        return
    if not says_yes("that may take more than an hour. Start?"):
        raise UsageError("not started: --yes starts without asking, a smaller size takes less")
