"""A question of one's own to a finished run: the spans that each of its read-outs holds likely.

What the run stored is asked, nothing is trained. Probes on top of words and positions are left out: the scorer that
they add to knows only the questions it was fitted with.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from emergence.answering.features import SpanLogits, predict_finetuned, predict_readouts
from emergence.answering.probe_fitting import probe_readout, reader
from emergence.answering.stored_heads import head_weights, probe_weights, trunk_weights
from emergence.data.formats.slots import finish_question
from emergence.data.formats.squad import split_words
from emergence.data.qa_encoding import EncodedQA, QATokenizer, encode_qa
from emergence.data.records import Answer, QAExample
from emergence.data.tokenizer import TextTokenizer
from emergence.errors import RunDirectoryError, UsageError, WeightsError
from emergence.experiment.belonging import load_own
from emergence.experiment.claims import own_result
from emergence.experiment.facts import dig
from emergence.experiment.inputs import marks_of, model_digest, open_published, redraw_as_own
from emergence.experiment.run_directory import RunDirectory
from emergence.measures.spans import iter_probability_bands
from emergence.model import SpanHead, Trunk, build_trunk
from emergence.model.huggingface import LoadedModel, find_model
from emergence.plain import plain
from emergence.training.checkpoint import WeightsFile, load_into
from emergence.training.context import Context
from emergence.training.precision import resolve_precision
from emergence.wording import aligned, counted

CPU = torch.device("cpu")
#: Words of a question that are never the verb asked about.
_NOT_VERBS = frozenset([
    "who", "whom", "whose", "what", "which", "where", "when", "why", "how", "much", "many", "long", "often",
    "did", "do", "does", "is", "are", "was", "were", "be", "been", "being", "has", "have", "had", "will",
    "would", "can", "could", "should", "may", "might", "must", "not", "someone", "something", "somebody",
    "somewhere", "to", "of", "by", "with", "for", "from", "in", "on", "at", "about", "into", "the", "a", "an",
    "it",
])  # fmt: skip
_BEFORE_NOUNS = frozenset(["the", "a", "an", "his", "its", "their", "my", "your", "our"])
#: Two words are forms of one verb if they begin alike for this share of the shorter one, and for so many letters.
_ALIKE_SHARE, _ALIKE_LETTERS = 0.6, 3


@dataclass(frozen=True)
class LikelySpan:
    """A span of the sentence, words ``[start, end)``, and the read-out's probability that it is the answer."""

    text: str
    start: int
    end: int
    probability: float


@dataclass(frozen=True)
class AskedQuestion:
    """A question with what every read-out answers.

    Attributes:
        run_id: The run that was asked.
        words: The sentence as it was cut into words.
        question: As it was put.
        predicate_index: The word marked as the verb asked about; None for data without predicates.
        predicate_given: Whether the caller named it, or it was sought among the words.
        spans: Read-out to its most likely spans, the likeliest first; probabilities of all valid spans add up to one.
        layers: Read-out to the layer it reads.
        max_answer_words: Longest span considered.
        notes: What was left out.
    """

    run_id: str
    words: tuple[str, ...]
    question: str
    predicate_index: int | None
    predicate_given: bool
    spans: Mapping[str, tuple[LikelySpan, ...]]
    layers: Mapping[str, int]
    max_answer_words: int
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return plain(vars(self))

    def text(self) -> str:
        """For the terminal: the sentence with its predicate marked, then the read-outs side by side."""
        marked = [f"[{word}]" if i == self.predicate_index else word for i, word in enumerate(self.words)]
        lines = [f"run       {self.run_id}", f"sentence  {' '.join(marked)}", f"question  {self.question}"]
        if self.predicate_index is not None and not self.predicate_given:
            word = self.words[self.predicate_index]
            lines.append(f"predicate {word} (sought by its spelling; name another with --predicate)")
        rows = []
        for name, spans in self.spans.items():
            title = f"{name}, layer {self.layers[name]}"
            for rank, span in enumerate(spans):
                rows.append([title if rank == 0 else "", f"{span.probability:.3f}", span.text])
        lines += ["", *aligned(rows)]
        return "\n".join([*lines, *(f"\nnote      {note}" for note in self.notes)])


def ask(
    run: RunDirectory,
    sentence: str,
    question: str,
    *,
    predicate: str | None = None,
    top: int = 3,
    device: torch.device = CPU,
) -> AskedQuestion:
    """Put one question about one sentence to every read-out that a finished run has stored.

    Args:
        run: A finished run that answers questions.
        sentence: Running text, or words with spaces between them.
        question: With or without its question mark.
        predicate: The verb asked about, a word of the sentence or its place counted from 1. None seeks the word that
            begins like a word of the question.
        top: Spans shown for each read-out.
        device: Where the trunk runs, in the precision of the run.

    Raises:
        UsageError: Nothing to ask, no predicate to be seen, or too long for the run's sequences.
        RunDirectoryError: The run has no finetuned model or probe, or the result of another run.
        WeightsError: Its weights are damaged or do not fit.
    """
    context = Context(device=device, precision=resolve_precision(run.spec.config.pretrain.precision, device))
    if not run.is_finished or not run.finetuned_path.is_file():
        raise RunDirectoryError(f"{run.run_id} has no finetuned model or probe to ask: its command goes on with it")
    result = own_result(run)
    weights = load_own(run, run.checked(run.finetuned_path.name))
    published = _published(run, weights, device) if run.spec.model else None
    for text in (sentence, question):
        if any("\ud800" <= letter <= "\udfff" for letter in text):
            raise UsageError("sentence or question is no text in UTF-8: check how the terminal encodes it")
    words, asked = split_words(sentence), finish_question(question)
    if not words or not asked:
        raise UsageError("a sentence and a question about it are needed, in quotation marks")
    place = None
    if predicate is not None or run.spec.finetune_data != "squad":
        place = _predicate_place(words, asked, predicate)
    encoded = _encode(run, weights, published, words, asked, place)
    limit = dig(result.test_scores, "max_answer_words") or len(words)
    logits, layers = _answers(run, weights, published, encoded, context)
    spans = {name: _likeliest(of_readout, words, limit, top) for name, of_readout in logits.items()}
    notes = []
    families = run.spec.config.probe.families if run.spec.freeze_llm else ()
    if missing := [family for family in families if family not in spans]:
        notes.append(f"{', '.join(missing)}: not stored by the version that made this run")
    return AskedQuestion(run.run_id, words, asked, place, predicate is not None, spans, layers, limit, tuple(notes))


def _predicate_place(words: tuple[str, ...], question: str, predicate: str | None) -> int:
    """Index of the verb asked about."""
    if predicate is None:
        return _sought(words, question)
    lower = [word.lower() for word in words]
    if re.fullmatch("[0-9]{1,6}", predicate) and predicate not in lower:
        place = int(predicate) - 1
        if not 0 <= place < len(words):
            raise UsageError(f"--predicate {predicate}: the sentence has {counted(len(words), 'word')}")
        return place
    places = [i for i, word in enumerate(lower) if word == predicate.lower()]
    if not places:
        raise UsageError(f"--predicate {predicate}: not a word of the sentence ({', '.join(words)})")
    if len(places) > 1:
        numbers = ", ".join(str(i + 1) for i in places)
        raise UsageError(f"--predicate {predicate}: the sentence has it as word {numbers}: give the number")
    return places[0]


def _sought(words: tuple[str, ...], question: str) -> int:
    """The word that has the most first letters in common with a word of the question, the earlier on a tie.

    Of the question only words count that can be verbs: "baker" in "What did the baker give?" cannot. Verbs of the
    sentence go before nouns, which may be predicates too ("the acquisition").
    """
    _, *asked = split_words(question) or ("",)  # the first is the wh-word
    verbs = [
        word.lower()
        for i, word in enumerate(asked)
        if _has_meaning(word) and not word[0].isupper() and not _is_noun(asked, i)
    ]
    alike = [
        max((_letters_alike(word.lower(), verb) for verb in verbs), default=0) if _has_meaning(word) else 0
        for word in words
    ]
    of_verbs = [0 if _is_noun(words, i) else letters for i, letters in enumerate(alike)]
    if not any(alike):
        raise UsageError("which verb of the sentence the question asks about is not plain: name it with --predicate")
    found = of_verbs if any(of_verbs) else alike
    return found.index(max(found))


def _has_meaning(word: str) -> bool:
    return word.isalpha() and word.lower() not in _NOT_VERBS


def _is_noun(words: Sequence[str], place: int) -> bool:
    """Whether a word stands right behind an article or a possessive."""
    return place > 0 and words[place - 1].lower() in _BEFORE_NOUNS


def _letters_alike(word: str, other: str) -> int:
    """First letters in common where the two may be forms of one verb (``cut``, ``cuts``), else 0."""
    n = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(word, other, strict=False)))
    shorter = min(len(word), len(other))
    return n if n >= max(min(_ALIKE_LETTERS, shorter), _ALIKE_SHARE * shorter) else 0


def _published(run: RunDirectory, weights: WeightsFile, device: torch.device) -> LoadedModel:
    """The published model that the run probed.

    Raises:
        WeightsError: What is there now are other weights.
    """
    loaded = open_published(run.spec, find_model(run.spec.model or "", run.spec.revision), device)
    redraw_as_own(run.spec, loaded)
    if model_digest(loaded) != weights.metadata.get("model"):
        raise WeightsError(
            f"{loaded.files.label} has other weights now than when {run.run_id} probed it: probe it anew"
        )
    return loaded


def _encode(
    run: RunDirectory,
    weights: WeightsFile,
    published: LoadedModel | None,
    words: tuple[str, ...],
    question: str,
    predicate: int | None,
) -> EncodedQA:
    example = QAExample(
        id="asked",
        source="asked",
        split="test",
        document_id="asked",
        sentence_id="asked",
        tokens=words,
        predicate_index=predicate,
        question=question,
        slots=None,
        answers=(Answer(words[0], 0, 1, "given"),),  # encoding wants one; nothing is scored
    )
    counts = weights.metadata.get("token_counts")
    if published is None:
        limit = weights.model.sequence_length
        tokenizer: QATokenizer = TextTokenizer.from_json(weights.tokenizer_json, str(run.finetuned_path))
    else:
        limit, tokenizer = published.encoder.max_tokens, published.tokenizer
    encoded, dropped = encode_qa(
        [example],
        tokenizer,
        run.spec.layout,
        limit,
        marks_of(run.spec),
        None if counts is None else np.asarray(counts, dtype=np.int64),
    )
    if dropped:
        raise UsageError(f"question and sentence are longer than this run's sequences of {limit} tokens: shorten them")
    return encoded


def _answers(
    run: RunDirectory,
    weights: WeightsFile,
    published: LoadedModel | None,
    encoded: EncodedQA,
    context: Context,
) -> tuple[dict[str, SpanLogits], dict[str, int]]:
    """Logits of every stored read-out by name, and the layer that each reads."""
    source = run.finetuned_path
    trunk = published.encoder if published else _trunk(weights, source, context)
    head = SpanHead(trunk.hidden_size)
    load_into(head, head_weights(weights.state_dict), source)
    head = head.to(context.device)
    if isinstance(trunk, Trunk) and not run.spec.freeze_llm:
        return {"finetuned": predict_finetuned(trunk, head, encoded, context)}, {"finetuned": trunk.n_layers}
    try:
        layers = {"linear": int(weights.metadata["head_layer"])}
        layers |= {str(family): int(layer) for family, layer in weights.metadata.get("probe_layers", {}).items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise WeightsError(f"{source}: which layers its probes read is damaged ({error})") from None
    readouts = {
        family: (layer, reader(head) if family == "linear" else _stored_probe(weights, family, context))
        for family, layer in layers.items()
    }
    return predict_readouts(trunk, readouts, encoded, context), layers


def _trunk(weights: WeightsFile, source: Path, context: Context) -> Trunk:
    trunk = build_trunk(weights.model, weights.vocab_rows, seed=0)
    load_into(trunk, trunk_weights(weights.state_dict), source)
    return trunk.to(context.device).eval().requires_grad_(False)


def _stored_probe(weights: WeightsFile, family: str, context: Context) -> Any:
    return probe_readout(family, probe_weights(weights.state_dict, family), context.device)


def _likeliest(logits: SpanLogits, words: tuple[str, ...], max_answer_words: int, top: int) -> tuple[LikelySpan, ...]:
    (_, band) = next(iter_probability_bands(logits.start, logits.end, logits.lengths, max_answer_words))
    probability = band[0]  # (words, longest span)
    order = np.argsort(-probability, axis=None, kind="stable")[:top]
    starts, extra = np.unravel_index(order, probability.shape)
    return tuple(
        LikelySpan(" ".join(words[i : i + k + 1]), int(i), int(i + k + 1), float(probability[i, k]))
        for i, k in zip(starts, extra, strict=True)
        if probability[i, k] > 0
    )
