"""Questions answered by the language model alone: from a prompt of k training questions with answers, nothing trained.

The prompt is running text, in the trunk's own tokens: for each training question (a shot) its sentence, the question
and the answer, then the sentence that is asked about and its question. Every span of that sentence up to M words is
scored exactly: the log-probability that the model writes just these words next and then ends the answer. Without the
end a longer span could never win. Spans with one start share a forward pass, because each is the beginning of the next.

Some words are likely whatever is asked. So each span also has its log-probability after the same prompt without the
questions, the shots' too; the difference is what the question says for it (Holtzman et al. 2021, PMI).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from emergence.data.qa_encoding import QATokenizer, cached_encoder, word_pieces
from emergence.data.records import QAExample
from emergence.model import Trunk
from emergence.training.context import Context
from emergence.training.precision import autocast

FloatArray = npt.NDArray[np.float64]
Ids = list[int]

#: Padded tokens of one forward pass.
_TOKENS = {"cpu": 8_192, "cuda": 65_536}
#: Keeps the draws of shots apart from all others of the same seed.
_STREAM = 0x5407


@dataclass(frozen=True)
class Prompt:
    """One question as a language model reads it.

    Attributes:
        with_question: Token ids of the whole prompt. without: Those without any question.
        words: For each word of the sentence that a span can start with, the ids of its words, M at most.
    """

    with_question: Ids
    without: Ids
    words: list[list[Ids]]


class Prompter:
    """Writes prompts of ``n_shots`` training questions.

    Args:
        train: Training questions, from which each test question draws shots of its own.
        tokenizer: The trunk's.
        bos: The token before a text.
        separator: The token after an answer, and after a sentence that does not end with it. mark: Its text.
        n_shots: k. max_answer_words: M. max_tokens: The longest sequence that the trunk takes.
        seed: Of the draws.
    """

    def __init__(
        self,
        train: Sequence[QAExample],
        tokenizer: QATokenizer,
        *,
        bos: int,
        separator: int,
        mark: str,
        n_shots: int,
        max_answer_words: int,
        max_tokens: int,
        seed: int,
    ) -> None:
        self._train, self._cached = train, cached_encoder(tokenizer)
        self._bos, self._separator, self._n_shots = bos, separator, n_shots
        self._gap = "" if mark.isspace() else " "  # a line begins without a blank, a sentence after another with one
        self._longest, self._room, self._seed = max_answer_words, max_tokens, seed
        shots = train if n_shots else ()
        self._lengths = [sum(map(len, self._shot(example))) for example in shots]

    def __call__(self, example: QAExample, number: int) -> Prompt | None:
        """The prompt of the test question with this number, which decides its shots; None if it does not fit.

        A shot is drawn if it leaves room for as many of the shortest as are still to come, so each prompt has k.
        """
        sentence, question = self._sentence(example), self._question(example)
        words, pieces = [], word_pieces(example.tokens)
        for i in range(len(example.tokens)):
            words.append(self._words(example.tokens, pieces, i, i + self._longest))
        answer = max(sum(map(len, each)) for each in words)
        shots = self._draw(self._room - 1 - len(sentence) - len(question) - answer, number)
        if shots is None:
            return None
        told = [self._shot(self._train[i]) for i in shots]
        asked = [self._bos, *(token for shot in told for part in shot for token in part), *sentence, *question]
        bare = [self._bos, *(token for shot in told for part in (shot[0], shot[2]) for token in part), *sentence]
        return Prompt(asked, bare, words)

    def _draw(self, room: int, number: int) -> list[int] | None:
        least = min(self._lengths, default=0)
        if room < self._n_shots * least or self._n_shots > len(self._train):
            return None
        shots: list[int] = []
        order = np.random.default_rng([self._seed, _STREAM, number]).permutation(len(self._lengths))
        for i in order.tolist():
            if len(shots) == self._n_shots:
                break
            if self._lengths[i] + (self._n_shots - len(shots) - 1) * least <= room:
                shots.append(i)
                room -= self._lengths[i]
        return shots if len(shots) == self._n_shots else None

    def _shot(self, example: QAExample) -> tuple[Ids, Ids, Ids]:
        """Sentence, question and answer of a training question. The answer is the one that most annotators gave."""
        answer = example.answers[0]
        pieces = word_pieces(example.tokens)
        spoken = [token for word in self._words(example.tokens, pieces, answer.start, answer.end) for token in word]
        return self._sentence(example), self._question(example), [*spoken, self._separator]

    def _sentence(self, example: QAExample) -> Ids:
        ids = self._encode(word_pieces(example.tokens))
        return ids if ids[-1] == self._separator else [*ids, self._separator]

    def _question(self, example: QAExample) -> Ids:
        return self._encode([self._gap + example.question])

    def _words(self, tokens: Sequence[str], pieces: Sequence[str], start: int, end: int) -> list[Ids]:
        """The span's words as the sentence spells them: whether a quotation mark opens or closes, only it tells.

        The first one begins with a blank, because an answer begins a text of its own.
        """
        return [self._encode([piece]) for piece in (*word_pieces(tokens[start : start + 1]), *pieces[start + 1 : end])]

    def _encode(self, texts: Sequence[str]) -> Ids:
        return [token for ids in self._cached(texts) for token in ids.tolist()]


def score_prompts(
    trunk: Trunk,
    prompts: Sequence[Prompt],
    separator: int,
    max_answer_words: int,
    context: Context,
    chunk_rows: int = 512,
    done: Callable[[int], object] = lambda n: None,
) -> tuple[FloatArray, FloatArray]:
    """Log-probabilities of all spans, with the questions and without them, each (N, W, M) with −inf for no span.

    Args:
        trunk: In eval mode on the context's device.
        prompts: N prompts.
        separator: The token that ends an answer.
        max_answer_words: M.
        chunk_rows: Rows of the vocabulary head computed at a time.
        done: Told how many prompts were scored since it was told last.
    """
    width = max((len(prompt.words) for prompt in prompts), default=0)
    tables = [np.full((len(prompts), width, max_answer_words), -np.inf) for _ in range(2)]
    for n, prompt in enumerate(prompts):
        for table, prefix in zip(tables, (prompt.with_question, prompt.without), strict=True):
            for start, values in _of_starts(trunk, prefix, prompt.words, separator, context, chunk_rows):
                table[n, start, : len(values)] = values
        done(1)
        context.alive()
    return tables[0], tables[1]


@torch.inference_mode()
def _of_starts(
    trunk: Trunk, prefix: Ids, words: list[list[Ids]], separator: int, context: Context, chunk_rows: int
) -> Iterator[tuple[int, FloatArray]]:
    """For each start its spans' log-probabilities after ``prefix``, the shortest span first."""
    spoken = [[token for word in each for token in word] for each in words]
    longest = len(prefix) + max(map(len, spoken))
    size = max(1, _TOKENS.get(context.device.type, _TOKENS["cpu"]) // longest)
    for first in range(0, len(words), size):
        batch = spoken[first : first + size]
        ids = torch.full((len(batch), longest), separator, device=context.device)  # nothing real sees the padding
        for row, tokens in enumerate(batch):
            ids[row, : len(prefix) + len(tokens)] = torch.tensor([*prefix, *tokens], device=context.device)
        with autocast(context.device, context.precision):
            states = trunk(ids)[:, len(prefix) - 1 :].float()  # (B, 1 + longest span, D)
        targets = torch.cat([ids[:, len(prefix) :], ids.new_full((len(batch), 1), separator)], dim=1)
        of_next, of_end = _log_probs(states, trunk.unembedding, targets, separator, chunk_rows)
        for row in range(len(batch)):
            ends = np.cumsum([len(word) for word in words[first + row]])  # tokens up to the end of each word
            yield first + row, np.cumsum(of_next[row])[ends - 1] + of_end[row][ends]


def _log_probs(
    states: Tensor, weight: Tensor, targets: Tensor, end: int, chunk_rows: int
) -> tuple[FloatArray, FloatArray]:
    """After each state (B, T, D): log-probabilities of its target (B, T) and of the token ``end``, both (B, T)."""
    flat, wanted = states.flatten(0, 1), targets.flatten()
    found = torch.empty(2, len(flat), dtype=torch.float64)
    for first in range(0, len(flat), chunk_rows):
        rows = slice(first, first + chunk_rows)
        logits = flat[rows] @ weight.float().T  # (r, V)
        both = torch.stack([logits.gather(1, wanted[rows, None])[:, 0], logits[:, end]])
        found[:, rows] = (both - logits.logsumexp(1)).double().cpu()
    of_next, of_end = found.view(2, *targets.shape).numpy()
    return of_next, of_end
