"""The trunk as a model that ``transformers`` knows, without code of its own.

- ``modern`` is a ``Qwen3ForCausalLM``. Its gated MLP computes down(act(gate x) * up x), so that gate = up = W and
  act = relu give relu(W x)^2, the squared ReLU. Its embedding matrix is this trunk's, each row already RMS-normed, and
  its output head is the matrix itself, untied.
- ``modern`` without query-key normalisation is a ``LlamaForCausalLM``, in the same way.
- ``gpt2`` is a ``GPT2LMHeadModel`` whose biases are zero.

Other mixtures of the settings have no such twin and are refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from emergence.data.tokenizer import TextTokenizer
from emergence.errors import UsageError
from emergence.model.trunk import NORM_EPSILON, ROTARY_BASE
from emergence.spec.config import ModelConfig

#: What decides the architecture: positions, norm, activation, whether queries and keys are normed.
_ARCHITECTURES = {
    ("rotary", "rmsnorm", "relu2", True): "Qwen3ForCausalLM",
    ("rotary", "rmsnorm", "relu2", False): "LlamaForCausalLM",
    ("learned", "layernorm", "gelu", False): "GPT2LMHeadModel",
}
#: ``nn.LayerNorm``'s default, which the trunk has.
_LAYER_NORM_EPSILON = 1e-5


@dataclass(frozen=True)
class ExportedModel:
    """A model in the form of ``transformers``.

    Attributes:
        architecture: Name of its class.
        config: Content of ``config.json``.
        tensors: Its weights by the names of that class, contiguous float32 that share no memory.
    """

    architecture: str
    config: dict[str, Any]
    tensors: dict[str, Tensor]


def architecture_of(model: ModelConfig) -> str:
    """The name of the class that computes what a trunk of this configuration computes.

    Raises:
        UsageError: There is none.
    """
    kind = (model.positions, model.norm, model.activation, model.qk_norm)
    if kind not in _ARCHITECTURES:
        raise UsageError(
            f"no architecture of transformers has positions = {model.positions} with norm = {model.norm}, activation = "
            f"{model.activation} and qk_norm = {str(model.qk_norm).lower()}: export takes the recipes modern (with or "
            "without qk_norm) and gpt2"
        )
    return _ARCHITECTURES[kind]


def exported_model(model: ModelConfig, vocab_rows: int, state: Mapping[str, Tensor]) -> ExportedModel:
    """The trunk's weights ``state`` as a model of ``transformers`` with the same logits and the same states.

    Args:
        model: Architecture of the trunk.
        vocab_rows: Rows V of its embedding.
        state: The trunk's ``state_dict``, without heads.

    Raises:
        UsageError: See :func:`architecture_of`.
    """
    architecture = architecture_of(model)
    config, tensors = (_gpt2 if architecture == "GPT2LMHeadModel" else _rotary)(model, vocab_rows, state)
    config = {"architectures": [architecture], **config, **_tokens(), "vocab_size": vocab_rows, "dtype": "float32"}
    return ExportedModel(architecture, config, {name: tensor.contiguous().clone() for name, tensor in tensors.items()})


def _tokens() -> dict[str, Any]:
    return {
        "bos_token_id": TextTokenizer.eot,
        "eos_token_id": TextTokenizer.eot,
        "pad_token_id": TextTokenizer.pad,
    }


def generation_config() -> dict[str, Any]:
    """Content of ``generation_config.json``. Documents end with the token that also stands before the first one."""
    return _tokens()


def _rotary(
    model: ModelConfig, vocab_rows: int, state: Mapping[str, Tensor]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    width, head = model.hidden_size, model.hidden_size // model.n_heads
    config: dict[str, Any] = {
        "model_type": "qwen3" if model.qk_norm else "llama",
        "hidden_size": width,
        "intermediate_size": model.mlp_ratio * width,
        "num_hidden_layers": model.n_layers,
        "num_attention_heads": model.n_heads,
        "num_key_value_heads": model.n_heads,
        "head_dim": head,
        "hidden_act": "relu",
        "max_position_embeddings": model.sequence_length,
        "rms_norm_eps": NORM_EPSILON,
        # The first is what version 5 reads, the second what version 4 does.
        "rope_parameters": {"rope_type": "default", "rope_theta": ROTARY_BASE},
        "rope_theta": ROTARY_BASE,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "tie_word_embeddings": False,
    }
    embedding = state["embedding.weight"].float()
    tensors = {
        "model.embed_tokens.weight": F.rms_norm(embedding, (width,), eps=NORM_EPSILON),
        "lm_head.weight": embedding,
        "model.norm.weight": state["final_norm.weight"],
    }
    for layer in range(model.n_layers):
        ours, theirs = f"blocks.{layer}.", f"model.layers.{layer}."
        names = {
            "input_layernorm": "attention_norm",
            "self_attn.q_proj": "attention.query",
            "self_attn.k_proj": "attention.key",
            "self_attn.v_proj": "attention.value",
            "self_attn.o_proj": "attention.output",
            "post_attention_layernorm": "mlp_norm",
            "mlp.gate_proj": "mlp.input",
            "mlp.up_proj": "mlp.input",
            "mlp.down_proj": "mlp.output",
        }
        if model.qk_norm:
            names |= {"self_attn.q_norm": "attention.query_norm", "self_attn.k_norm": "attention.key_norm"}
        tensors |= {f"{theirs}{name}.weight": state[f"{ours}{own}.weight"] for name, own in names.items()}
    return config, tensors


def _gpt2(model: ModelConfig, vocab_rows: int, state: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    width = model.hidden_size
    config = {
        "model_type": "gpt2",
        "n_embd": width,
        "n_inner": model.mlp_ratio * width,
        "n_layer": model.n_layers,
        "n_head": model.n_heads,
        "n_positions": model.sequence_length,
        "activation_function": "gelu",
        "layer_norm_epsilon": _LAYER_NORM_EPSILON,
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
        "tie_word_embeddings": True,
    }
    tensors = {
        "transformer.wte.weight": state["embedding.weight"],
        "transformer.wpe.weight": state["position.weight"],
        "transformer.ln_f.weight": state["final_norm.weight"],
        "transformer.ln_f.bias": state["final_norm.bias"],
    }
    for layer in range(model.n_layers):
        ours, theirs = f"blocks.{layer}.", f"transformer.h.{layer}."
        for name, own in (("ln_1", "attention_norm"), ("ln_2", "mlp_norm")):
            tensors |= {f"{theirs}{name}.{part}": state[f"{ours}{own}.{part}"] for part in ("weight", "bias")}
        query_key_value = [state[f"{ours}attention.{part}.weight"] for part in ("query", "key", "value")]
        # This class keeps its matrices as (in, out).
        matrices = {
            "attn.c_attn": torch.cat(query_key_value).T,
            "attn.c_proj": state[f"{ours}attention.output.weight"].T,
            "mlp.c_fc": state[f"{ours}mlp.input.weight"].T,
            "mlp.c_proj": state[f"{ours}mlp.output.weight"].T,
        }
        for name, matrix in matrices.items():
            tensors |= {f"{theirs}{name}.weight": matrix, f"{theirs}{name}.bias": torch.zeros(matrix.shape[1])}
    return config, tensors
