"""The published weights of the study that the experiment comes from: planted dictionaries, right and wrong ones."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

pytest.importorskip("transformers")

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

from emergence.commands.subject import is_model
from emergence.errors import EmergenceError, UsageError, WeightsError
from emergence.findings.collect import collect_results
from emergence.model.huggingface import find_model, load_model, random_twin, toy_llm
from emergence.model.huggingface.files import list_revisions
from emergence.model.huggingface.toy_llm import TRUNK_FILE
from emergence.spec.published import size_name
from tests.command_lines import typed
from tests.experiment.test_published import SETTINGS
from tests.published_models import TEXTS
from tests.small_runs import run_micro

WIDTH, BLOCKS, POSITIONS, HEADS = 128, 2, 96, 2


def write_vocabulary(folder: Path) -> int:
    """A small vocabulary of BERT's kind; its size."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    alphabet = [chr(i) for i in range(33, 127)]
    tokenizer.train_from_iterator(
        TEXTS, trainers.WordPieceTrainer(vocab_size=300, special_tokens=specials, initial_alphabet=alphabet)
    )
    folder.mkdir(parents=True, exist_ok=True)
    known = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token, _ in known))
    return len(known)


def planted(rows: int, width: int = WIDTH, seed: int = 0) -> dict[str, Tensor]:
    """A state dictionary with the names and shapes of the public code, drawn widely enough for levels to differ."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {"token_embedding.weight": (rows, width), "position_embedding.weight": (POSITIONS, width)}
    for block in range(BLOCKS):
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes |= {f"layers.{block}.attention.{name}.weight": (width, width)}
            shapes |= {f"layers.{block}.attention.{name}.bias": (width,)}
        for name, outer, inner in (("linear1", 4 * width, width), ("linear2", width, 4 * width)):
            shapes |= {f"layers.{block}.ffn.{name}.weight": (outer, inner), f"layers.{block}.ffn.{name}.bias": (outer,)}
        for name in ("norm1", "norm2"):
            shapes |= {f"layers.{block}.{name}.weight": (width,), f"layers.{block}.{name}.bias": (width,)}
    shapes |= {"norm_out.weight": (width,), "norm_out.bias": (width,)}
    state = {f"llm.{name}": torch.randn(shape, generator=generator) * 0.2 for name, shape in shapes.items()}
    return {**state, "lm_head.weight": state["llm.token_embedding.weight"]}


def by_hand(state: dict[str, Tensor], ids: Tensor) -> list[Tensor]:
    """The levels as the public code's formulas have them."""
    part = {name.removeprefix("llm."): tensor for name, tensor in state.items()}

    def linear(x: Tensor, name: str) -> Tensor:
        return F.linear(x, part[f"{name}.weight"], part[f"{name}.bias"])

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, (x.shape[-1],), part[f"{name}.weight"], part[f"{name}.bias"])

    x = part["token_embedding.weight"][ids] + part["position_embedding.weight"][: ids.shape[1]]
    levels = [x]
    for block in range(BLOCKS):
        at = f"layers.{block}"
        seen = norm(x, f"{at}.norm1")
        q, k, v = (
            linear(seen, f"{at}.attention.{name}_proj").unflatten(2, (HEADS, -1)).transpose(1, 2) for name in "qkv"
        )
        scores = q @ k.transpose(2, 3) / (WIDTH // HEADS) ** 0.5
        later = torch.ones(ids.shape[1], ids.shape[1]).triu(1).bool()
        mixed = scores.masked_fill(later, -torch.inf).softmax(dim=3) @ v
        x = x + linear(mixed.transpose(1, 2).flatten(2), f"{at}.attention.out_proj")
        inner = F.gelu(linear(norm(x, f"{at}.norm2"), f"{at}.ffn.linear1"))
        x = x + linear(inner, f"{at}.ffn.linear2")
        levels.append(x)
    return [*levels[:-1], norm(x, "norm_out")]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Tensor]]:
    folder = tmp_path_factory.mktemp("study") / "TinyQA_spe200k_20251231-005835"
    state = planted(write_vocabulary(folder))
    torch.save(state, folder / TRUNK_FILE)
    torch.save({**state, "qa_outputs.weight": torch.ones(2, WIDTH)}, folder / "finetune_epoch_1.pth")
    return folder, state


def test_levels_are_those_of_the_public_formulas(study: tuple[Path, dict[str, Tensor]]) -> None:
    folder, state = study
    ids = torch.arange(40).view(2, 20) + 7
    for name, revision in ((folder, None), (folder / TRUNK_FILE, None), (folder, "finetune_epoch_1")):
        loaded = load_model(str(name), revision)
        for level, wanted in zip(loaded.encoder.hidden_states(ids), by_hand(state, ids), strict=True):
            torch.testing.assert_close(level, wanted, atol=2e-5, rtol=1e-4)
        logits = by_hand(state, ids)[-1] @ state["lm_head.weight"].T
        torch.testing.assert_close(loaded.encoder.logits(ids), logits, atol=1e-3, rtol=1e-3)
    tokenizer = loaded.tokenizer
    assert tokenizer.decode([tokenizer.bos or 0]) == "[CLS]" and loaded.encoder.max_tokens == POSITIONS
    assert loaded.facts()["tokenizer"]["keeps_text"] is False  # it is lower case that the model was trained on
    twin = random_twin(str(folder), seed=0)
    assert twin.n_parameters == loaded.n_parameters
    first, other = find_model(str(folder)), find_model(str(folder / "finetune_epoch_1.pth"))
    assert first.weights_digest == other.weights_digest and first.sketches.keys() == first.digests.keys()
    assert size_name(str(folder / TRUNK_FILE)) == folder.name


def test_it_is_probed_like_any_published_model(study: tuple[Path, dict[str, Tensor]], tmp_path: Path) -> None:
    folder, _ = study
    values = (*SETTINGS, "pretrain.precision=fp32", 'probe.families=["linear"]', "probe.validity=false")
    flags = ["--data", "microworld", "--layers", "0,2", "--twins", "1", "--runs-dir", str(tmp_path / "runs")]
    flags += [word for value in values for word in ("--set", value)]
    ended = typed("emergence", "probe", "--model", str(folder / TRUNK_FILE), *flags)
    assert ended.code == 0, ended.err
    found = collect_results(tmp_path / "runs").found
    assert {item.result.condition for item in found} == {"frozen", "random-frozen"}
    assert {item.result.config_name for item in found} == {folder.name}
    assert all(item.result.held_out_loss for item in found)
    for command in ("probe", "cka", "revisions", "ie"):
        missing = (
            [str(tmp_path / "none.pth")] if command in ("revisions", "ie") else ["--model", str(tmp_path / "none.pth")]
        )
        ended = typed("emergence", command, *missing)
        assert ended.code == 2 and "none.pth: there is no such file" in ended.err
    assert is_model(str(folder / TRUNK_FILE), tmp_path)


class _Runs:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch owned",)


def _without(name: str) -> Callable[[dict[str, Tensor]], object]:
    return lambda state: {key: tensor for key, tensor in state.items() if key != name}


WRONG: dict[str, tuple[Callable[[dict[str, Tensor]], object], str]] = {
    "a pickled object": (lambda state: {**state, "w": _Runs()}, "refused by the safe loader"),
    "a module": (lambda state: torch.nn.Linear(2, 2), "refused by the safe loader"),
    "a list": (lambda state: list(state.values()), "not a dictionary of tensors but list"),
    "no tensors": (lambda state: {"config": "tiny"}, "'config' is none"),
    "a checkpoint": (lambda state: {"model_state_dict": state, "epoch": 3}, f"resume from: give {TRUNK_FILE}"),
    "no embedding": (_without("llm.token_embedding.weight"), "(the embedding of tokens) is missing"),
    "no bias": (_without("llm.layers.1.ffn.linear2.bias"), "layers.1.ffn.linear2.bias is missing"),
    "another program's": (lambda state: {"embedding.weight": torch.ones(2, 2)}, "(the embedding of tokens)"),
    "one more": (lambda state: {**state, "llm.pooler.weight": torch.ones(2)}, "pooler.weight is unknown"),
    "another shape": (
        lambda state: {**state, "llm.layers.0.ffn.linear1.bias": torch.ones(3)},
        "layers.0.ffn.linear1.bias is (3,), not (512,)",
    ),
    "another width": (lambda state: planted(300, width=96), "its width 96 does not tell the number of heads"),
    "integers": (lambda state: {n: t.int() for n, t in state.items()}, "not of ordinary floating-point"),
    "not finite": (lambda state: {**state, "llm.norm_out.bias": torch.full((WIDTH,), torch.nan)}, "not finite"),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_anything_else_is_refused_in_one_line_and_nothing_runs(
    what: str, study: tuple[Path, dict[str, Tensor]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make, said = WRONG[what]
    torch.save(make(study[1]), tmp_path / "weights.pth")
    with pytest.raises(WeightsError) as refused:
        find_model("weights.pth")
    message = str(refused.value)
    assert said in message and "weights.pth" in message and "\n" not in message
    assert not (tmp_path / "owned").exists()


def test_what_is_no_file_of_torch_or_lies_elsewhere_is_refused(
    study: tuple[Path, dict[str, Tensor]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, state = study
    (tmp_path / "text.pth").write_text("#!/bin/sh\ntouch owned\n")
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    for name in ("text.pth", "old.pth"):
        with pytest.raises(WeightsError, match=r"not a file that torch\.save wrote"):
            find_model(str(tmp_path / name))
    said: dict[str, Callable[[], object]] = {
        "there is no such file": lambda: find_model(str(tmp_path / "none.pth")),
        "is one file: drop --revision": lambda: find_model(str(folder / TRUNK_FILE), "finetune_epoch_1"),
        "has no revision 'epoch_9'": lambda: find_model(str(folder), "epoch_9"),
        "has no revisions that name a step": lambda: list_revisions(str(folder)),
    }
    for words, ask in said.items():
        with pytest.raises(UsageError, match=words):
            ask()
    own = run_micro(tmp_path, skip_finetune=True)
    with pytest.raises(WeightsError, match="emergence export RUN --to DIR"):
        find_model(str(own.path))

    torch.save(planted(301), tmp_path / TRUNK_FILE)
    write_vocabulary(tmp_path)
    with pytest.raises(EmergenceError, match=r"its embedding has 301 rows, and its tokenizer \d+ tokens"):
        load_model(str(tmp_path))
    (tmp_path / "vocab.txt").unlink()
    monkeypatch.setattr(toy_llm, "TOKENIZER", str(tmp_path / "nowhere"))
    with pytest.raises(UsageError, match=r"put vocab\.txt or tokenizer\.json of bert-base-uncased beside it"):
        load_model(str(tmp_path))
