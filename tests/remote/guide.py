"""The command lines of the experiment guide, letter for letter and in its order, with what it promises of each.

Names in angle brackets, ``<size>`` and dated run names stand for something a person puts in; :func:`filled` does.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass

LAUNCHER = "pretrain_wikitext_finetune_qasrl_modal.py"
_RUN = f"modal run {LAUNCHER} --config-name"
_WEIGHTS = "toy_llm_unified_pretrained.pth"


@dataclass(frozen=True)
class Line:
    """One command line of the guide.

    Attributes:
        where: Its part of the guide. command: As it stands there, continuation included.
        promise: What the guide says that it does.
        stands_for: Run names that it gives as examples, or placeholders, and the condition, size and data of the run
            that a person puts there.
    """

    where: str
    command: str
    promise: str
    stands_for: tuple[tuple[str, str], ...] = ()

    @property
    def on_one_line(self) -> str:
        return re.sub(r"\s*\\\n\s*", " ", self.command)


def _probe(where: str, size: str, example: str, of: str = "wiki") -> Line:
    command = f'{_RUN} {size} --freeze-llm --skip-pretrain \\\n  --pretrained-model-path "{example}/{_WEIGHTS}"'
    return Line(where, command, f"linear probe on the frozen {size} trunk", ((example, f"{size} {of}"),))


def _full(where: str, size: str, flags: str = "", run: str = "modal run") -> Line:
    return Line(where, f"{run} {LAUNCHER} --config-name {size}{flags}", f"pretrains and finetunes {size}")


def _floor(where: str, size: str) -> Line:
    command = f"{_RUN} {size} --random-baseline --skip-pretrain"
    return Line(where, command, f"the floor of {size}: no pretraining at all")


def _few(count: int) -> Line:
    return Line("phase 3", f"{_RUN} base --finetune-samples {count}", f"finetunes base on {count} questions")


_LIST = Line("listing", f"modal run {LAUNCHER} --list-saved", "lists the saved runs")
_FULL_RUN, _FROZEN_RUN = "TinyQA_spe200k_20251230-120000", "TinyQA_spe200k_frozen_20251230-130000"
_STATS = "modal volume get llm-models"
_SIZES = {"tiny": "TinyQA_spe200k", "small": "SmallQA_spe400k", "base": "BaseQA_spe800k", "medium": "MediumQA_spe1500k"}

#: The 43 lines that the guide has one run through, in its order.
GUIDE = (
    Line("quick start", "cd llm_scale_up", "goes into the checkout"),
    _full("first", "tiny"),
    _probe("first", "tiny", "TinyQA_spe200k_20251231-005835"),
    _floor("first", "tiny"),
    *(_full("all sizes", size) for size in _SIZES),
    *(_probe("all sizes", size, f"{name}_YYYYMMDD-HHMMSS") for size, name in _SIZES.items()),
    _LIST,
    Line("step 1", _LIST.command, _LIST.promise),
    Line(
        "step 2",
        f"{_STATS} <ModelDir>/finetune_stats.json ./results/",
        "fetches one results file into results/",
        (("<ModelDir>", "tiny wiki"),),
    ),
    Line(
        "step 2",
        f"{_STATS} {_FULL_RUN}/finetune_stats.json ./results/tiny_full.json",
        "fetches it under a name of one's own",
        ((_FULL_RUN, "tiny wiki"),),
    ),
    Line(
        "step 2",
        f"{_STATS} {_FROZEN_RUN}/finetune_stats.json ./results/tiny_frozen.json",
        "the same of the frozen run",
        ((_FROZEN_RUN, "tiny frozen"),),
    ),
    *(_floor("step 3", size) for size in _SIZES),
    Line(
        "step 5",
        f"modal run temporal_cka_analysis.py --model-dir {_FULL_RUN} --config-name tiny",
        "temporal CKA of the full run",
        ((_FULL_RUN, "tiny wiki"),),
    ),
    Line(
        "step 5",
        f"modal run temporal_cka_analysis.py --model-dir {_FROZEN_RUN} --config-name tiny",
        "temporal CKA of the frozen run",
        ((_FROZEN_RUN, "tiny frozen"),),
    ),
    Line("step 6", "python verify_qasrl_alignment.py", "checks every answer span of QA-SRL"),
    Line(
        "step 8",
        f"{_STATS} TinyQA_spe200k_20251231-005835/ ./checkpoints/tiny_full/",
        "fetches a run's snapshots",
        (("TinyQA_spe200k_20251231-005835", "tiny wiki"),),
    ),
    Line("step 8", "python scripts/generate_figures.py --results-dir ./results/", "draws the figures"),
    _full("phase 1", "tiny"),
    _full("phase 1", "small", run="modal run -d"),
    _full("phase 1", "base"),
    _full("phase 1", "medium"),
    *(_probe("phase 2", size, f"<{size.capitalize()}Dir>") for size in _SIZES),
    *(_few(count) for count in (10, 50, 100, 500)),
    _full("phase 3", "base", "  # Full dataset"),
    _full("phase 4", "base"),
    _probe("phase 4", "base", "<BaseWikiDir>"),
    Line("phase 4", f"{_RUN} base --pretrain-data wiki+nq", "pretrains base on wiki+nq and finetunes it"),
    _probe("phase 4", "base", "<BaseWikiNQDir>", "wiki+nq"),
)
#: Its list of commands for reference, of any size.
REFERENCE = (
    Line("reference", f"{_RUN} <size>", "pretrains and finetunes"),
    Line("reference", f"{_RUN} <size> --pretrain-data wiki+nq", "the same with questions in the pretraining text"),
    Line("reference", f"{_RUN} <size> --skip-pretrain", "uses the pretrained weights there are"),
    _probe("reference", "<size>", "<ModelDir>"),
    Line("reference", f"{_RUN} <size> --finetune-samples 100", "few-shot"),
    Line(
        "reference",
        _probe("reference", "<size>", "<ModelDir>").command + " --finetune-samples 100",
        "probes with few questions",
        (("<ModelDir>", "<size> wiki"),),
    ),
    Line("reference", f"{_RUN} <size> --random-baseline --skip-pretrain", "the floor"),
    Line("reference", _LIST.command, _LIST.promise),
)


def filled(line: Line, runs: Mapping[str, str], size: str = "tiny") -> list[str]:
    """The words of a line with what a person puts in. ``runs`` has run names by size and data, as ``stands_for``."""
    text = line.on_one_line
    for example, run in line.stands_for:
        text = text.replace(example, runs[run.replace("<size>", size)])
    return shlex.split(text.replace("<size>", size), comments=True)
