"""Size, difficulty and seed of a micro-world, validated."""

from __future__ import annotations

from dataclasses import dataclass, fields

from emergence.data.microworld.lexicon import VERBS
from emergence.errors import ConfigError

#: Constructions that depend on the verb, so that a pair with a verb can be held out.
HOLDABLE = (
    "passive",
    "double_object",
    "recipient_passive",
    "subject_relative",
    "object_relative",
    "passive_relative",
    "coordinated_noun_phrase",
    "cleft",
    "pseudo_cleft",
)


@dataclass(frozen=True)
class MicroWorldConfig:
    """A micro-world. Equal configurations give equal worlds, and no size changes anything but its own split.

    Attributes:
        n_documents: Pretraining documents (about 90 words each at the default length).
        n_validation_documents: Text documents for the validation loss.
        n_test_documents: Text documents for the test loss.
        n_qa_train_documents: Question documents (about 3.3 questions a sentence) for training.
        n_qa_validation_documents: Question documents for validation.
        n_qa_test_documents: Question documents for the test.
        n_nq_questions: Passage-free questions for training. Validation and test have a tenth as many each.
        sentences_per_document: Sentences in every document.
        difficulty: 0 for simple clauses only, 1 for every construction at its full probability.
        held_out: (verb base form, construction) pairs that only the question test split may contain, such as
            ``("chase", "passive")``. They test compositional generalisation.
        seed: Decides everything random.
    """

    n_documents: int = 16_000
    n_validation_documents: int = 200
    n_test_documents: int = 200
    n_qa_train_documents: int = 500
    n_qa_validation_documents: int = 100
    n_qa_test_documents: int = 200
    n_nq_questions: int = 5_000
    sentences_per_document: int = 8
    difficulty: float = 1.0
    held_out: tuple[tuple[str, str], ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        for item in fields(self):
            if item.name.startswith(("n_", "sentences", "seed")):
                self._check_integer(item.name)
        if isinstance(self.difficulty, bool) or not isinstance(self.difficulty, (int, float)):
            raise ConfigError(f"microworld difficulty must be a number from 0 to 1, not {self.difficulty!r}")
        if not 0 <= self.difficulty <= 1:
            raise ConfigError(f"microworld difficulty must be from 0 to 1, not {self.difficulty}")
        self._check_held_out()

    def _check_integer(self, name: str) -> None:
        value, least = getattr(self, name), 1 if name == "sentences_per_document" else 0
        if isinstance(value, bool) or not isinstance(value, int):
            raise ConfigError(f"microworld {name} must be a whole number, not {value!r}")
        if value < least:
            raise ConfigError(f"microworld {name} must be at least {least}, not {value}")

    def _check_held_out(self) -> None:
        verbs = {verb.base for verb in VERBS}
        if not isinstance(self.held_out, tuple):
            raise ConfigError(f"microworld held_out must be a tuple of (verb, construction), not {self.held_out!r}")
        for pair in self.held_out:
            valid = isinstance(pair, tuple) and len(pair) == 2 and pair[0] in verbs and pair[1] in HOLDABLE
            if not valid:
                raise ConfigError(
                    f"microworld held_out has {pair!r}; allowed are pairs of a verb's base form and one of "
                    f"{', '.join(HOLDABLE)}"
                )
