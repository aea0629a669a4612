"""The states of a published model at every level, taken by hooks.

``output_hidden_states`` is not used: whether its last entry is normed has differed between families and versions
(huggingface/transformers #13102, #26142, #48087).
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from emergence.errors import UsageError
from emergence.model.huggingface.families import Parts, check_logits, context_length, output_layer_of, parts_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

#: Tokens of the sequences that a model is checked with when it is wrapped.
_CHECKED = 8


class HuggingFaceEncoder(nn.Module):
    """An :class:`~emergence.model.encoder.Encoder` over a causal model of transformers.

    Level 0 is what the first block reads, so positions that are added to embeddings are in it. Level i is the output of
    block i, and the last is the output of the final norm, which the head reads.

    Attributes:
        hidden_size: D.
        n_layers: L. n_heads: Attention heads of a block.
        max_tokens: Longest sequence that the model takes.
        logits_off: How far head(last level) was from the model's logits, as a share of the largest logit.

    Raises:
        UsageError: The levels cannot be read, do not give the logits, or a state sees later tokens.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model.eval()
        config = model.config.get_text_config()
        self.hidden_size: int = config.hidden_size
        self.n_layers: int = config.num_hidden_layers
        self.n_heads: int = config.num_attention_heads
        self.max_tokens: int = context_length(config)
        self._parts: Parts = parts_of(model)
        self._body: nn.Module = model.base_model
        self.logits_off = self._check(config.vocab_size)

    def hidden_states(self, ids: Tensor) -> list[Tensor]:
        """L + 1 tensors (B, T, D) of token ids (B, T). Right padding is harmless, so there is no mask."""
        levels: list[Tensor] = []

        def keep_input(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            levels.append(args[0] if args else kwargs["hidden_states"])

        def keep_output(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            levels.append(output[0] if isinstance(output, tuple) else output)

        blocks, norm = self._parts.blocks, self._parts.norm
        with ExitStack() as hooks:
            hooks.callback(blocks[0].register_forward_pre_hook(keep_input, with_kwargs=True).remove)
            for module in (*blocks[:-1], norm):
                hooks.callback(module.register_forward_hook(keep_output).remove)
            self._body(input_ids=ids, use_cache=False)
        return levels

    def logits(self, ids: Tensor) -> Tensor:
        """The model's own logits (B, T, V) of token ids (B, T)."""
        logits: Tensor = self.model(input_ids=ids, use_cache=False).logits
        return logits

    def output_layer(self, block: int, kind: str) -> nn.Module:
        """The layer of a block whose input is its neurons (``mlp``) or its heads side by side (``head``).

        Raises:
            UsageError: It is not where that of a known family is.
        """
        return output_layer_of(self.model, self._parts.blocks[block], kind)

    @torch.no_grad()
    def _check(self, vocab_size: int) -> float:
        """See the class. The tokens are fixed ones, so that the check says the same every time."""
        ids = (torch.arange(2 * _CHECKED).view(2, _CHECKED) * 37 + 11) % vocab_size
        ids = ids.to(self.model.device)
        levels = self.hidden_states(ids)
        kind = self.model.config.model_type
        if len(levels) != self.n_layers + 1 or any(level.shape != (*ids.shape, self.hidden_size) for level in levels):
            raise UsageError(f"{kind}: its blocks do not give one state of width {self.hidden_size} for each token")
        if not all(torch.isfinite(level).all() for level in levels):
            raise UsageError(f"{kind}: its states are not finite: its weights are damaged, or need another --dtype")
        changed = ids.clone()
        changed[:, -1] = (changed[:, -1] + 1) % vocab_size
        seen = (self.hidden_states(changed)[-1] - levels[-1])[:, :-1].float().abs().max()
        if seen > 1e-2 * levels[-1].float().abs().max():
            raise UsageError(f"{kind}: its states see later tokens, so it is an encoder: give a causal model")
        return check_logits(self.model, self._parts, levels[-1], ids)
