"""What a run reads and computes, counted from its spec before any data is opened. Standard library only."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from emergence.spec.experiment import ExperimentSpec
from emergence.spec.model_size import count_parameters, embedding_rows, training_flops_per_token
from emergence.spec.published import published_parameters
from emergence.spec.search_budget import finetuning_passes, grid_size, search_passes

#: Training questions and tokens a question (with its sentence) by ``--finetune-data``, rounded.
QUESTIONS = {"qasrl": (6_400, 45), "qasrl-bank": (190_000, 45), "squad": (87_600, 200), "qasrl+squad": (94_000, 190)}
#: Questions of a micro-world document, and tokens of one with its sentence.
MICROWORLD_QUESTIONS, MICROWORLD_TOKENS = 27, 30
#: Bytes of a local file for one token of text, and for one question with all that the file says of it, roughly.
BYTES_A_TOKEN = 4.2
BYTES_A_QUESTION = {".qa": 120, ".csv": 200, ".json": 350, ".jsonl": 900, ".gz": 90, ".parquet": 120}
#: Files that are looked at in a folder of data; nobody waits for an estimate.
_MOST_FILES = 2_000


@dataclass(frozen=True)
class Workload:
    """Counts of one run, roughly.

    Attributes:
        pretrain_tokens: Tokens of pretraining, at most.
        questions: Training questions; 0 where none are read.
        finetune_tokens: Tokens that finetuning reads, or that one pass for the probes' features does.
        search_tokens: Tokens that the search for finetuning's settings reads before it.
        flop: Floating-point operations of all of these.
        probed: What fitting probes grows with: training questions times levels of states times their width.
        parameters: Of a published model, None where nobody knows yet; ``flop`` and ``probed`` are 0 then.
        is_known: Whether these counts say what a run takes.
    """

    pretrain_tokens: int
    questions: int
    finetune_tokens: int
    search_tokens: int
    flop: float
    probed: int = 0
    parameters: int | None = None
    is_known: bool = True


def workload_of(spec: ExperimentSpec, *, has_trunk: bool = False, look_at_files: bool = False) -> Workload:
    """Count what ``spec`` amounts to.

    Args:
        has_trunk: Another run has its trunk, so nothing is pretrained.
        look_at_files: Bound tokens and questions by the sizes of the local files that the spec names. A launch does
            not, because its paths are Modal's; but a published model that is a directory here is one there, too.
    """
    if spec.model:
        return _of_published(spec, published_parameters(spec.model), look_at_files=look_at_files)
    model, pretrain = spec.config.model, spec.config.pretrain
    rows = embedding_rows(model.vocab_size)
    tokens = 0
    if spec.pretrains and not (has_trunk or spec.at_snapshot):
        tokens = pretrain.epochs * pretrain.samples_per_epoch * model.sequence_length
        if look_at_files and spec.pretrain_text and (size := _bytes_at(spec.pretrain_text)):
            tokens = min(tokens, int(pretrain.max_passes * sum(size.values()) / BYTES_A_TOKEN))
    questions, length = questions_of(spec, look_at_files=look_at_files)
    tuning, search = _finetune_tokens(spec, questions, length)
    # Finetuning has no vocabulary head: 6 N a token (Kaplan et al. 2020).
    flop = tokens * training_flops_per_token(model, rows)
    flop += 6.0 * (tuning + search) * count_parameters(model, rows).non_embedding
    probed = questions * _levels(spec, model.n_layers) * model.hidden_size if spec.freeze_llm else 0
    return Workload(tokens, questions, tuning, search, flop, probed)


def _of_published(spec: ExperimentSpec, parameters: int | None, *, look_at_files: bool) -> Workload:
    """One pass of a published model over the questions, and its probes."""
    questions, length = questions_of(spec, look_at_files=look_at_files)
    if parameters is None:
        return Workload(
            pretrain_tokens=0, questions=questions, finetune_tokens=questions * length, search_tokens=0, flop=0.0,
            is_known=False,
        )  # fmt: skip
    width, blocks = shape_of(parameters)
    return Workload(
        pretrain_tokens=0, questions=questions, finetune_tokens=questions * length, search_tokens=0,
        flop=2.0 * questions * length * parameters, probed=questions * _levels(spec, blocks) * width,
        parameters=parameters,
    )  # fmt: skip


def shape_of(parameters: int) -> tuple[int, int]:
    """Width and blocks that a model of so many parameters has, roughly: 12 D^2 a block, and a block for 64 of width.

    >>> shape_of(135_000_000)
    (896, 14)
    """
    width = round((64 * parameters / 12) ** (1 / 3))
    return width, max(1, width // 64)


def _levels(spec: ExperimentSpec, blocks: int) -> int:
    """Levels of states that probes are fitted to."""
    chosen = spec.config.probe.layers
    return blocks + 1 if chosen == "all" else len(chosen.split(","))


def questions_of(spec: ExperimentSpec, *, look_at_files: bool = False) -> tuple[int, int]:
    """Training questions, and tokens of one with its sentence, roughly; (0, 0) where none are read."""
    if spec.skip_finetune:
        return 0, 0
    questions, length = QUESTIONS[spec.finetune_data]
    if spec.qa_data:
        sizes = _bytes_at(spec.qa_data) if look_at_files else {}
        counted = sum(size / BYTES_A_QUESTION[kind] for kind, size in sizes.items() if kind in BYTES_A_QUESTION)
        questions = int(counted) or questions
    elif spec.data == "microworld":
        questions, length = spec.config.microworld.train_documents * MICROWORLD_QUESTIONS, MICROWORLD_TOKENS
    length *= 2 if spec.layout == "echo" else 1
    return min(questions, spec.finetune_samples or questions), length


def _finetune_tokens(spec: ExperimentSpec, questions: int, length: int) -> tuple[int, int]:
    """Tokens that finetuning (or one pass for probe features) reads, and those of the search before it."""
    if not questions or spec.freeze_llm:
        return questions * length, 0
    config = spec.config.finetune
    searched = search_passes(questions, config, grid_size(spec.random_baseline or spec.adapter != "none"))
    return finetuning_passes(questions, config) * length, searched * length


def _bytes_at(path: str) -> dict[str, int]:
    """Bytes by the ending of the names, of a file or of the files below a folder; empty if there is nothing to see."""
    sizes: dict[str, int] = {}
    try:
        files = [Path(path)] if Path(path).is_file() else _files_below(path)
        for file in files:
            sizes[file.suffix.lower()] = sizes.get(file.suffix.lower(), 0) + file.stat().st_size
    except (OSError, ValueError):
        return {}
    return sizes


def _files_below(folder: str) -> list[Path]:
    files: list[Path] = []
    for where, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        files += [Path(where, name) for name in names if not name.startswith(".")]
        if len(files) > _MOST_FILES:
            break
    return files
