"""Published models of five families: their levels, their tokenizers, and what is refused, offline."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("transformers")

from safetensors.torch import load_file, save_file

from emergence.answering.features import cache_features
from emergence.data.qa_encoding import encode_qa, mark_tokens
from emergence.data.records import Answer, QAExample
from emergence.errors import EmergenceError, UsageError, WeightsError
from emergence.model import Encoder
from emergence.model.huggingface import HuggingFaceEncoder, HuggingFaceTokenizer, find_model, load_model, random_twin
from emergence.model.huggingface import loading as loading_module
from emergence.model.huggingface.tensors import group_digests, group_of, read_entries
from emergence.training.context import Context
from tests.published_models import (
    CONTEXT,
    FAMILIES,
    LAYERS,
    WIDTH,
    byte_level,
    configuration,
    save_model,
    sentencepiece_like,
)

WORDS = ("The", "dog", "did", "n't", "see", "the", "cat", "-LRB-", "yet", "-RRB-", ".")
EXAMPLE = QAExample(
    "1", "qasrl", "train", "d", "s", WORDS, 4, "Who did not see something?", None, (Answer("The dog", 0, 2, "given"),)
)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    for family in FAMILIES:
        save_model(root / family, family)
    return root


@pytest.fixture
def model(models: Path, tmp_path: Path) -> Path:
    """A copy to be broken."""
    return Path(shutil.copytree(models / "gpt2", tmp_path / "model"))


def change(path: Path, **values: Any) -> None:
    raw = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in {**raw, **values}.items() if v is not ...}))


@pytest.mark.parametrize("family", FAMILIES)
def test_levels_are_block_outputs_and_the_last_gives_the_logits(models: Path, family: str) -> None:
    loaded = load_model(str(models / family))
    encoder, ids = loaded.encoder, torch.arange(12).view(2, 6)
    assert isinstance(encoder, Encoder)
    levels = encoder.hidden_states(ids)
    assert [level.shape for level in levels] == [(2, 6, WIDTH)] * (LAYERS + 1)
    with torch.no_grad():
        own = encoder.model(ids, output_hidden_states=True)
    for mine, theirs in zip(levels[:-1], own.hidden_states, strict=False):
        torch.testing.assert_close(mine, theirs)
    torch.testing.assert_close(encoder.model.get_output_embeddings()(levels[-1]), own.logits)
    torch.testing.assert_close(encoder.logits(ids), own.logits)
    padded = torch.nn.functional.pad(ids, (0, 3), value=7)
    torch.testing.assert_close(encoder.hidden_states(padded)[-1][:, :6], levels[-1])
    facts = loaded.facts()
    assert facts["context"] == CONTEXT and facts["logits_off"] < 1e-5
    assert facts["tokenizer"]["bos"] == ("<s>" if family == "llama" else None)
    rows = encoder.model.get_input_embeddings().weight.numel()
    untied = rows * (2 if family in ("gpt_neox", "olmo2", "qwen3") else 1)
    assert loaded.n_parameters - loaded.n_non_embedding == untied


def test_a_twin_has_the_same_shape_and_its_seeds_weights(models: Path) -> None:
    one, again, other = (random_twin(str(models / "olmo2"), seed=seed) for seed in (1, 1, 2))
    loaded, ids = load_model(str(models / "olmo2")), torch.arange(8)[None]
    state = torch.get_rng_state()
    last = [each.encoder.hidden_states(ids)[-1] for each in (one, again, other, loaded)]
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(last[0], last[1])
    assert not torch.allclose(last[0], last[2]) and not torch.allclose(last[0], last[3])
    assert one.n_parameters == loaded.n_parameters and one.facts()["random_seed"] == 1


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("layout", ["question-first", "echo"])
def test_a_question_is_running_text_with_a_mark(models: Path, family: str, layout: Any) -> None:
    loaded = load_model(str(models / family))
    tokenizer = loaded.tokenizer
    encoded, dropped = encode_qa([EXAMPLE], tokenizer, layout, loaded.encoder.max_tokens, "text")
    assert dropped == {}
    mark = ' "' if family == "gpt2" else '"'
    sentence = f"\n The dog didn't{mark} see the cat (yet)."
    assert tokenizer.decode(encoded.ids.tolist()).endswith(sentence)
    assert (encoded.ids[0] == tokenizer.bos) == (family == "llama")
    start, end = encoded.question_ranges[0]
    assert tokenizer.decode(encoded.ids[start:end].tolist()).strip() == EXAMPLE.question
    read = [tokenizer.decode([encoded.ids[place]]).strip() for place in encoded.word_positions]
    if family == "llama":  # its token "didn" is the first to have seen "did"
        assert read == ["The", "dog", "didn", "t", "see", "the", "cat", "(", "yet", ")", "."]
    ends = [tokenizer.decode(encoded.ids[: place + 1].tolist()) for place in encoded.word_positions]
    texts = ("The", "dog", "did", "didn't", "see", "the", "cat", "(", "yet", ")", ".")
    assert all(end.removesuffix("n" if family == "llama" and i == 2 else "").endswith(text)
               for i, (end, text) in enumerate(zip(ends, texts, strict=True)))  # fmt: skip
    assert np.all(np.diff(encoded.word_positions) >= 0)
    cache = cache_features(loaded.encoder, encoded, [0, LAYERS], context=Context())
    assert np.isfinite(cache.words[LAYERS].numpy()).all()


def test_words_of_a_sentencepiece_tokenizer_are_found_by_offsets() -> None:
    import transformers

    tokenizer = HuggingFaceTokenizer(
        transformers.PreTrainedTokenizerFast(tokenizer_object=sentencepiece_like(), unk_token="<unk>")
    )
    assert tokenizer.keeps_text and not tokenizer.by_word and tokenizer.bos is not None
    pieces = [" The", " owners", " of", " 東京", " did", "n't", " see", " it"]
    ids, first, last = tokenizer.encode_words(pieces)
    assert tokenizer.decode(ids.tolist()) == "The owners of 東京 didn't see it"
    for word in (1, 2, 3, 6, 7):
        assert tokenizer.decode(ids[first[word] : last[word] + 1].tolist()) == pieces[word].strip()
    # "did" is read at the token "didn", the first that has seen it whole; a mark before "n't" comes after that.
    assert tokenizer.decode([ids[last[4]]]) == "didn" and tokenizer.n_late == 1
    assert first[5] == last[4] + 1
    # Characters that the tokenizer lacks are bytes, and a word has been seen at the last of them.
    ids, first, last = tokenizer.encode_words([" The", " 漢字", " owners"])
    assert last[1] - first[1] >= 5
    assert tokenizer.decode(ids[first[1] : last[1] + 1].tolist()) == "漢字" and first[2] == last[1] + 1


def test_marks_are_the_first_that_are_one_token_and_known(models: Path) -> None:
    import transformers

    own = load_model(str(models / "llama")).tokenizer
    assert mark_tokens(own, "text").texts == ("\n", ' "')
    assert own.decode([mark_tokens(own, "text").separator]) == "\n"
    backend = sentencepiece_like()
    raw = json.loads(backend.to_str())
    raw["model"]["byte_fallback"] = False  # now a line break is unknown to it
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=type(backend).from_str(json.dumps(raw)), unk_token="<unk>"
    )
    without = HuggingFaceTokenizer(fast)
    assert not without.keeps_text and without.facts()["keeps_text"] is False
    assert mark_tokens(without, "text").texts == (".", ' "')
    with pytest.raises(UsageError, match="no marks of its own"):
        mark_tokens(without, "special")


def test_special_tokens_in_a_text_are_spelled_out(models: Path) -> None:
    tokenizer = load_model(str(models / "gpt2")).tokenizer
    assert 0 not in tokenizer.encode_batch(["a <|endoftext|> b"])[0]


# Refusals -------------------------------------------------------------------------------------------


def refused(match: str, *args: Any, error: type[EmergenceError] = UsageError, **options: Any) -> None:
    with pytest.raises(error, match=match) as caught:
        load_model(*args, **options)
    assert caught.value.exit_code == 2 and "\n" not in str(caught.value)


def test_other_kinds_of_models_are_refused_by_name(model: Path) -> None:
    config = model / "config.json"
    original = config.read_text()
    for changes, match in (
        ({"model_type": "t5", "is_encoder_decoder": True}, "encoder-decoder"),
        ({"model_type": "bert", "architectures": ["BertForMaskedLM"]}, "no causal language model but BertForMaskedLM"),
        ({"model_type": "own", "auto_map": {"AutoModelForCausalLM": "x.Y"}}, "code of its own"),
        ({"model_type": "not_yet"}, "knows no causal language model of the type 'not_yet'"),
    ):
        config.write_text(original)
        change(config, **changes)
        refused(match, str(model))


def test_a_model_whose_states_see_later_tokens_is_refused() -> None:
    import transformers

    config = transformers.BertConfig(
        vocab_size=50, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8
    )
    with pytest.raises(UsageError, match="are not where those of a known family are"):
        HuggingFaceEncoder(transformers.BertLMHeadModel(config))
    gpt2 = transformers.GPT2LMHeadModel(configuration("gpt2", 50))
    own = gpt2.transformer.h[0].forward
    gpt2.transformer.h[0].forward = lambda states, *rest, **more: own(states.flip(1), *rest, **more)  # type: ignore[method-assign]
    with pytest.raises(UsageError, match="see later tokens"):
        HuggingFaceEncoder(gpt2)


def test_levels_that_do_not_give_the_logits_are_refused_and_known_scales_are_not() -> None:
    import transformers

    gpt2 = transformers.GPT2LMHeadModel(configuration("gpt2", 50))
    forward = gpt2.forward
    gpt2.forward = lambda **given: transformers.modeling_outputs.CausalLMOutput(logits=3 * forward(**given).logits)
    with pytest.raises(UsageError, match=r"gpt2 \(GPT2LMHeadModel\): the head applied"):
        HuggingFaceEncoder(gpt2)
    sizes = {"vocab_size": 50, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2,
             "num_attention_heads": 2, "num_key_value_heads": 1, "pad_token_id": None}  # fmt: skip
    gemma = transformers.Gemma2Config(**sizes, head_dim=8, final_logit_softcapping=0.05)
    assert HuggingFaceEncoder(transformers.Gemma2ForCausalLM(gemma)).logits_off < 1e-4
    granite = transformers.GraniteConfig(**sizes, logits_scaling=7.0)
    assert HuggingFaceEncoder(transformers.GraniteForCausalLM(granite)).logits_off < 1e-4


@pytest.mark.parametrize(
    "changes",
    [
        *({"num_hidden_layers": value} for value in (0, -1, 10**9, "2", True, 2.5)),
        *({"num_attention_heads": value} for value in (0, [2])),
        *({"num_key_value_heads": 0}, {"vocab_size": 0}, {"vocab_size": -1}, {"hidden_size": 10**12}),
        *({"model_type": []}, {"model_type": {"a": 1}}, {"architectures": 5}, {"pad_token_id": 10**6}),
        {"layer_types": ["sliding_attention"]},
    ],
    ids=str,
)
def test_a_configuration_that_cannot_be_is_refused_at_once(
    changes: dict[str, Any], models: Path, tmp_path: Path
) -> None:
    model = Path(shutil.copytree(models / "qwen3", tmp_path / "model"))
    change(model / "config.json", **changes)
    refused(".", str(model))


def test_a_path_is_no_revision_and_weights_count_once_and_as_numbers(model: Path, tmp_path: Path) -> None:
    shutil.copytree(model, tmp_path / "other")
    for revision in ("../other", str(tmp_path / "other"), ".."):
        refused("the name of a subfolder is meant", str(model), revision)
    path = model / "model.safetensors"
    whole = load_file(path)
    save_file({k: v.to(torch.int32) if k.endswith("c_fc.weight") else v for k, v in whole.items()}, path)
    refused("quantised weights are not read", str(model), error=WeightsError)
    path.unlink()
    for part in ("a", "b"):
        save_file(whole, model / f"{part}.safetensors")
    index = {"weight_map": dict.fromkeys(whole, "a.safetensors") | {next(iter(whole)): "b.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    refused("two of its files hold", str(model), error=WeightsError)


def test_ids_beyond_the_embedding_are_refused(model: Path) -> None:
    raw = json.loads((model / "tokenizer.json").read_text())
    last = max(raw["model"]["vocab"], key=raw["model"]["vocab"].get)
    raw["model"]["vocab"][last] += 10**6
    (model / "tokenizer.json").write_text(json.dumps(raw))
    refused("its tokenizer", str(model))


def test_weights_that_are_missing_damaged_or_pickles_are_refused(model: Path) -> None:
    path = model / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-3])
    refused(r"its header speaks of [\d,]+ bytes", str(model), error=WeightsError)
    path.write_bytes(struct.pack("<Q", 10**9) + whole[8:])
    refused("not a safetensors file, or is cut short", str(model), error=WeightsError)
    path.write_bytes(whole.replace(b'"F32"', b'"F16"'))
    refused("type, shape and place", str(model), error=WeightsError)
    path.write_bytes(whole.replace(b"transformer.h.1.mlp.c_fc.bias", b"transformer.h.7.mlp.c_fc.bias"))
    refused("no fitting weights for", str(model), error=WeightsError)
    path.unlink()
    refused("holds no weights", str(model), error=WeightsError)
    (model / "pytorch_model.bin").write_bytes(b"never read")
    refused("a pickle, which could run code", str(model), error=WeightsError)
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "model-1.safetensors"}}))
    refused(r"a part of its weights is missing \(model-1.safetensors\)", str(model), error=WeightsError)


def test_a_missing_directory_revision_or_hub_copy_is_refused(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused("no such directory", str(tmp_path / "nothing"))
    refused("choose a revision of it: .*gpt2", str(models))
    refused("no revision 'step7'.*it has .*gpt2", str(models), "step7")
    refused("no revision 'step7'.*it has none", str(models / "gpt2"), "step7")
    assert load_model(str(models), "gpt2").files.folder == models / "gpt2"
    refused("neither a directory nor a name", "no such name")
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    refused("no whole copy on this machine", "somebody/something", cache_dir=tmp_path)


def test_a_copy_in_the_hubs_cache_is_used_as_it_is(models: Path, tmp_path: Path) -> None:
    commit, repository = "a" * 40, tmp_path / "models--some--model"
    shutil.copytree(models / "gpt2", repository / "snapshots" / commit)
    for branch in ("main", "step512"):
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / branch).write_text(commit)
    for revision in (None, "step512"):
        found = find_model("some/model", revision, cache_dir=tmp_path)
        assert found.commit == commit and found.n_values == load_model(str(models / "gpt2")).n_parameters
    assert find_model("some/model", "step512", cache_dir=tmp_path).label == "some/model, revision step512"


def test_a_model_too_large_for_memory_is_refused_before_it_is_loaded(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading_module, "free_memory", lambda: 10**9)
    refused(r"needs about 0.9 GiB of memory \([\d,]+ weights\), and here are 0.9 GiB", str(model))


def test_a_slow_or_damaged_tokenizer_is_refused(model: Path) -> None:
    with pytest.raises(UsageError, match="x has a slow tokenizer"):
        HuggingFaceTokenizer(type("PythonBackend", (), {"is_fast": False})(), "x")
    change(model / "config.json", vocab_size=3)
    (model / "tokenizer.json").write_text('{"version": "1.0"}')
    refused("tokenizer cannot be read|cannot be loaded", str(model))


def test_digests_by_group_tell_which_blocks_are_equal(models: Path, tmp_path: Path) -> None:
    assert group_of("gpt_neox.layers.11.attention.dense.weight") == "gpt_neox.layers.11"
    assert group_of("lm_head.weight") == "lm_head"
    one = find_model(str(models / "gpt2")).digests
    other = find_model(str(save_model(tmp_path / "b", "gpt2", seed=1))).digests
    assert set(one) == {"transformer.h.0", "transformer.h.1", "transformer.ln_f", "transformer.wpe", "transformer.wte"}
    assert {group for group in one if one[group] == other[group]} == {"transformer.ln_f"}
    assert group_digests(read_entries(models / "gpt2" / "model.safetensors")) == one
    assert byte_level().get_vocab_size() > 256
