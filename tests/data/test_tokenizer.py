"""The tokenizer: lossless, deterministic, the same as the library's own encoding, specials out of reach of text."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models

from emergence.data.tokenizer import MIN_VOCAB_SIZE, PIECE_PATTERN, SPECIAL_TOKENS, TextTokenizer
from emergence.errors import WeightsError

TEXTS = [f"The lobster number {i} didn't eat the {i % 7} fish, said “Ann’s” friend.\n\nIt slept." for i in range(300)]
TOKENIZER = TextTokenizer.train(TEXTS, 330)
LIBRARY = Tokenizer.from_str(TOKENIZER.to_json())
LIBRARY.encode_special_tokens = True


@given(st.text())
@settings(max_examples=200, deadline=None)
def test_every_text_survives_and_equals_the_library_encoding(text: str) -> None:
    ids = TOKENIZER.encode(text)
    assert TOKENIZER.decode(ids) == text
    assert "".join(re.findall(PIECE_PATTERN, text)) == text
    assert LIBRARY.encode(text, add_special_tokens=False).ids == ids


def test_words_stay_apart_and_paragraph_breaks_stay_whole() -> None:
    pieces = re.findall(PIECE_PATTERN, " don't 1999, (naïve)  x\n\ny it’s ’twas")
    assert pieces == [" don", "'t", " 1999", ",", " (", "naïve", ")", " ", " x", "\n\n", "y", " it", "’s", " ’", "twas"]


def test_batches_are_uint16_and_equal_single_encodings() -> None:
    batch = TOKENIZER.encode_batch(TEXTS[:5])
    assert [array.tolist() for array in batch] == [TOKENIZER.encode(text) for text in TEXTS[:5]]
    assert {array.dtype for array in batch} == {np.dtype(np.uint16)}
    assert TOKENIZER.encode("") == [] and TOKENIZER.encode_batch([]) == []


def test_special_tokens_are_placed_by_id_alone() -> None:
    assert (TOKENIZER.eot, TOKENIZER.sep, TOKENIZER.pred, TOKENIZER.pad) == (0, 1, 2, 3)
    for token in SPECIAL_TOKENS:
        assert min(TOKENIZER.encode(f"a {token} b")) > 3
    assert TOKENIZER.decode([0, 1, 2, 3]) == "".join(SPECIAL_TOKENS)


def test_sizes() -> None:
    assert TOKENIZER.vocab_size == 330 and TOKENIZER.vocab_rows == 384
    small = TextTokenizer.train(["aa bb"], 5000)
    assert MIN_VOCAB_SIZE <= small.vocab_size < 5000 and small.vocab_rows % 64 == 0
    for size in (MIN_VOCAB_SIZE - 1, 65_536):
        with pytest.raises(ValueError, match="vocab_size"):
            TextTokenizer.train(["a"], size)


def test_json_round_trip_keeps_the_fingerprint() -> None:
    again = TextTokenizer.from_json(TOKENIZER.to_json())
    assert again.fingerprint == TOKENIZER.fingerprint and again.encode(TEXTS[3]) == TOKENIZER.encode(TEXTS[3])
    assert TextTokenizer.train(TEXTS, 331).fingerprint != TOKENIZER.fingerprint


@pytest.mark.parametrize("threads", ["1", "4"])
def test_training_does_not_depend_on_threads_or_process(threads: str) -> None:
    program = (
        "from emergence.data.tokenizer import TextTokenizer; import json, sys;"
        "print(TextTokenizer.train(json.load(sys.stdin), 330).fingerprint)"
    )
    environment = os.environ | {
        "RAYON_NUM_THREADS": threads,
        "TOKENIZERS_PARALLELISM": "true",
        "PYTHONHASHSEED": threads,
    }
    done = subprocess.run(
        [sys.executable, "-c", program],
        input=json.dumps(TEXTS),
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == TOKENIZER.fingerprint


def other_pattern() -> str:
    content = json.loads(TOKENIZER.to_json())
    content["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = " "
    return json.dumps(content)


@pytest.mark.parametrize(
    "text",
    ["", "{", '{"a": 1}', Tokenizer(models.BPE()).to_str(), other_pattern()],
    ids=["empty", "cut", "json", "bare", "cut other"],
)
def test_foreign_tokenizers_are_refused_in_one_line(text: str) -> None:
    with pytest.raises(WeightsError, match=r"weights\.pth: ") as caught:
        TextTokenizer.from_json(text, "weights.pth")
    assert "\n" not in str(caught.value)


def test_other_special_ids_are_refused() -> None:
    text = TOKENIZER.to_json().replace("<|sep|>", "<|other|>")
    with pytest.raises(WeightsError, match="not a tokenizer of this program"):
        TextTokenizer.from_json(text)


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("vocab", None), ("vocab", {}), ("vocab", {"?": 10**9}), ("vocab", {"?": -1}), ("vocab", {"?": True}),
        ("vocab", {"?": 5}), ("vocab", {"<|sep|>": 300}), ("merges", None), ("merges", 3), ("merges", [3]),
        ("merges", [["a"]]), ("merges", [["a", "\ud800"]]), ("merges", [["no such", "token"]]), ("merges", ["a b c"]),
    ],
)  # fmt: skip
def test_damaged_vocabularies_are_refused(part: str, value: object) -> None:
    """Found by fuzzing: ids beyond the embedding, and files at which the library panics or takes memory without end."""
    raw = json.loads(TOKENIZER.to_json())
    whole = raw["model"][part]
    raw["model"][part] = {**whole, **value} if value and isinstance(value, dict) else value
    with pytest.raises(WeightsError, match=r"damaged|not a tokenizer") as caught:
        TextTokenizer.from_json(json.dumps(raw), "weights.pth")
    assert "\n" not in str(caught.value)
