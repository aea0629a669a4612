"""What the rows run on: text, tokenizer, packed streams and questions, from files or from the micro-world."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch

from benchmarks.measure import Work, best_precision, gemm
from emergence.data.records import QAExample
from emergence.data.sources import PretrainingData, load_qa, prepare_pretraining_data
from emergence.data.text import load_text_path
from emergence.spec.experiment import ExperimentSpec

#: Rows of the vocabulary in every row of the table, whatever the text yields: the default of all sizes.
VOCAB_ROWS = 16_384
#: Characters above which a line is a paragraph and not a heading.
SHORTEST_PARAGRAPH = 100


@dataclass(frozen=True)
class Bench:
    """What is given to every row.

    Attributes:
        repeats: Rounds that count, at least 5 for a figure to publish.
        device: Where to run.
        text: A text file or folder; None for the micro-world.
        questions: A file or folder of questions; None for the micro-world.
        toy: Sizes that take a second, to test the code and measure nothing.
        cache: Where streams, tokenizers and the curves of slow peers are kept.
    """

    repeats: int = 5
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    text: Path | None = None
    questions: Path | None = None
    toy: bool = False
    cache: Path = field(default_factory=lambda: Path(tempfile.gettempdir()) / "emergence-benchmarks")

    @property
    def gemm_side(self) -> int:
        """Side of the matrices whose product tells how fast this machine multiplies.

        A GPU is through with smaller ones before the next product is launched.
        """
        return 512 if self.toy else 4096 if self.device.type == "cuda" else 2048

    def gemm(self) -> Work:
        """Their product (:func:`benchmarks.measure.gemm`)."""
        return gemm(self.device, best_precision(self.device), self.gemm_side)

    @property
    def text_name(self) -> str:
        return self.text.name if self.text else "micro-world"

    @property
    def questions_name(self) -> str:
        return self.questions.name if self.questions else "micro-world"

    @cached_property
    def spec(self) -> ExperimentSpec:
        """The experiment whose data the rows use."""
        world = [f"microworld.{part}_documents={n}" for part, n in self._world.items()]
        return ExperimentSpec.from_flags(
            config_name="tiny",
            data="microworld",
            pretrain_text=str(self.text) if self.text else None,
            qa_data=str(self.questions) if self.questions else None,
            set_values=[*world, *(["model.vocab_size=400"] if self.toy else [])],
        )

    @property
    def _world(self) -> dict[str, int]:
        if self.toy:
            return {"text": 60, "train": 10, "validation": 4, "test": 4}
        return {"text": 3_000, "train": 400, "validation": 60, "test": 20}

    @cached_property
    def pretraining(self) -> PretrainingData:
        return prepare_pretraining_data(self.spec, self.cache)

    @cached_property
    def paragraphs(self) -> list[str]:
        """Lines of the training text, headings and the like left out: the samples of a trainer that pads."""
        if self.text is None:
            stream, tokenizer = self.pretraining.train, self.pretraining.tokenizer
            starts = [0, *stream.document_ends[:-1].tolist()]
            spans = zip(starts, stream.document_ends.tolist(), strict=True)
            texts = [tokenizer.decode(stream.tokens[a : b - 1].tolist()) for a, b in spans]
        else:
            texts = [document.text for document in load_text_path(self.text, 0).documents("train")]
        return [line for text in texts for line in text.splitlines() if len(line) > SHORTEST_PARAGRAPH]

    @cached_property
    def qa(self) -> dict[str, list[QAExample]]:
        """Questions by split."""
        return {name: list(examples) for name, examples in load_qa(self.spec, self.cache).splits.items()}
