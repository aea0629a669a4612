"""Small published models of five families, built from configurations, with tokenizers trained on the spot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

FAMILIES = ("gpt2", "gpt_neox", "llama", "olmo2", "qwen3")
WIDTH, LAYERS, CONTEXT = 16, 2, 128

TEXTS = [
    "The dog chased the cat across the yard.\nWho chased something? What was chased?",
    "He didn't see \"it\" (yet), but the owners of the dog's house did. \n\nIn 1984: naïve cafés; 東京.",
    "The chef gave the waiter a letter in the kitchen because the guest asked for it. Where was it given?",
    "The teacher told the student a story, and the student thanked the teacher. When was someone told something?",
] * 4


def byte_level() -> Tokenizer:
    """A tokenizer of GPT-2's kind: a word with its leading space is cut alone as in running text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    specials = ["<|endoftext|>"]
    tokenizer.train_from_iterator(
        TEXTS, trainers.BpeTrainer(vocab_size=400, special_tokens=specials, initial_alphabet=alphabet)
    )
    return tokenizer


def sentencepiece_like(*, bos: bool = True) -> Tokenizer:
    """A tokenizer of Llama's kind: a space before every text, bytes for unknown characters, a BOS before all."""
    specials = ["<unk>", "<s>", "</s>"]
    bytes_ = [f"<0x{i:02X}>" for i in range(256)]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    # Pieces of words only while it is trained, as SentencePiece does it.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split("▁", "merged_with_next"), pre_tokenizers.Punctuation("isolated")]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=[*specials, *bytes_], initial_alphabet=["▁"], limit_alphabet=40
    )
    tokenizer.train_from_iterator([text.replace("\n", " ") for text in TEXTS], trainer)
    raw = json.loads(tokenizer.to_str())
    raw["pre_tokenizer"] = None
    raw["added_tokens"] = [token for token in raw["added_tokens"] if not token["content"].startswith("<0x")]
    tokenizer = Tokenizer.from_str(json.dumps(raw))
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
        )
    return tokenizer


def configuration(family: str, vocab_size: int, **changes: Any) -> Any:
    """A configuration of seconds."""
    import transformers

    sizes = {
        "hidden_size": WIDTH, "intermediate_size": 32, "num_hidden_layers": LAYERS, "num_attention_heads": 2,
        "max_position_embeddings": CONTEXT,
    }  # fmt: skip
    grouped = {"num_key_value_heads": 1, "pad_token_id": None, "bos_token_id": None, "eos_token_id": None}
    made: dict[str, Any] = {
        "gpt2": lambda: transformers.GPT2Config(
            n_embd=WIDTH, n_layer=LAYERS, n_head=2, n_positions=CONTEXT, bos_token_id=0, eos_token_id=0
        ),
        "gpt_neox": lambda: transformers.GPTNeoXConfig(**sizes, bos_token_id=0, eos_token_id=0),
        "llama": lambda: transformers.LlamaConfig(**sizes, **grouped, tie_word_embeddings=True),
        "olmo2": lambda: transformers.Olmo2Config(**sizes, **grouped),
        "qwen3": lambda: transformers.Qwen3Config(**sizes, **grouped, head_dim=8),
    }
    config = made[family]()
    for name, value in {"vocab_size": vocab_size, "architectures": None, **changes}.items():
        setattr(config, name, value)
    return config


def save_model(folder: Path, family: str = "gpt2", *, tokenizer: Tokenizer | None = None, seed: int = 0) -> Path:
    """A directory as ``save_pretrained`` leaves it; weights drawn widely enough for levels to differ."""
    import transformers

    if tokenizer is None:
        tokenizer = sentencepiece_like() if family == "llama" else byte_level()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    if "<unk>" in tokenizer.get_vocab():
        fast.add_special_tokens({"unk_token": "<unk>", "bos_token": "<s>"})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = transformers.AutoModelForCausalLM.from_config(configuration(family, tokenizer.get_vocab_size()))
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder
