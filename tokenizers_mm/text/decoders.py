"""Decoders as functions of embeddings, ours and those of ``transformers``: a prompt, then one more embedding at a time.

A vocabulary that is not the model's enters as embeddings and is scored against embeddings, so no ids appear here.
"""

from __future__ import annotations

import inspect
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from tokenizers_mm.text.flat import SubwordLM


class Next(NamedTuple):
    """What a decoder makes of the last step of each row.

    Args:
        features: What its output matrix is applied to, ``[B, D]``.
        logits: Of its own tokens, ``[B, V]``.
    """

    features: Tensor
    logits: Tensor


class Decoder(Protocol):
    """A causal language model."""

    @property
    def device(self) -> torch.device:
        """Where embeddings are wanted."""
        ...

    def logits(self, x: Tensor, mask: Tensor, last: int) -> Tensor:
        """Logits of the last steps ``[B, last, V]`` of embeddings ``[B, T, D]``; padding, where the mask is 0, anywhere."""
        ...

    def start(self, x: Tensor, mask: Tensor, room: int) -> Next:
        """The last step of embeddings ``[B, T, D]``, padded on the left; keeps what ``room`` further steps need."""
        ...

    def step(self, x: Tensor) -> Next:
        """One more embedding ``[B, D]`` of each row."""
        ...


class FlatDecoder:
    """A :class:`SubwordLM`."""

    def __init__(self, model: SubwordLM) -> None:
        self.model, self.device = model, model.head.weight.device

    def logits(self, x: Tensor, mask: Tensor, last: int) -> Tensor:
        return self.model.head(self.model.backbone(x, mask.bool())[:, -last:])

    def start(self, x: Tensor, mask: Tensor, room: int) -> Next:
        self._cache = self.model.backbone.cache(len(x), x.shape[1] + room)
        return self._next(self.model.backbone(x, mask.bool(), self._cache)[:, -1])

    def step(self, x: Tensor) -> Next:
        return self._next(self.model.backbone(x[:, None], None, self._cache)[:, -1])

    def _next(self, features: Tensor) -> Next:
        return Next(features, self.model.head(features))


class HFDecoder:
    """A decoder of ``transformers``.

    Args:
        model: With a language-modelling head, in evaluation mode. Features are what reaches this head, so that whatever the model
            does before it (norms, projections) is done.

    Raises:
        TypeError: If it has no output embeddings.
    """

    def __init__(self, model: Any) -> None:
        head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
        if head is None:
            raise TypeError(f"model must have a language-modelling head, {type(model).__name__} has none")
        self.model, self.device, self._features = model, model.device, torch.empty(0)
        taken = inspect.signature(model.forward).parameters
        self._positions, self._keeps = "position_ids" in taken, "logits_to_keep" in taken
        self._cache_name = "cache" if "cache" in taken else "past_key_values"  # renamed within transformers 5
        head.register_forward_pre_hook(self._seen)

    def _seen(self, module: torch.nn.Module, args: tuple[Tensor, ...]) -> None:
        self._features = args[0]

    def logits(self, x: Tensor, mask: Tensor, last: int) -> Tensor:
        return self._run(x, mask, last, use_cache=False).logits[:, -last:]

    def start(self, x: Tensor, mask: Tensor, room: int) -> Next:
        self._mask = mask
        return self._next(self._run(x, mask, 1, use_cache=True))

    def step(self, x: Tensor) -> Next:
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(x), 1)], dim=1)
        return self._next(self._run(x[:, None], self._mask, 1, use_cache=True, **{self._cache_name: self._cache}))

    def _next(self, found: Any) -> Next:
        self._cache = found[self._cache_name]
        return Next(self._features[:, -1], found.logits[:, -1])

    def _run(self, x: Tensor, mask: Tensor, last: int, **options: Any) -> Any:
        if self._positions:  # some would count padding as well
            options["position_ids"] = (mask.cumsum(dim=1) - 1).clamp(min=0)[:, -x.shape[1] :]
        if self._keeps:
            options["logits_to_keep"] = last
        return self.model(inputs_embeds=x, attention_mask=mask, **options)


def decoder_of(model: Any) -> Decoder:
    """A model as a :class:`Decoder`."""
    return FlatDecoder(model) if isinstance(model, SubwordLM) else HFDecoder(model)
