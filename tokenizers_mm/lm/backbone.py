"""A language model of one stream of ids over :class:`~tokenizers_mm.lm.transformer.Transformer`, whose parts can be had here too.

Touvron et al., "LLaMA", 2023, is the network.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from einops import rearrange
from torch import Tensor, nn

from tokenizers_mm.lm.blocks import Attention, Block, SwiGLU
from tokenizers_mm.lm.cache import Cache
from tokenizers_mm.lm.output import LMOutput, Trace
from tokenizers_mm.lm.rope import rotate
from tokenizers_mm.lm.sampling import Sampling, draw, generate
from tokenizers_mm.lm.transformer import Transformer
from tokenizers_mm.nn.few_rows import FewRowsLinear

__all__ = ["Attention", "Block", "Cache", "DecoderLM", "SwiGLU", "Transformer", "draw", "rotate"]


class DecoderLM(nn.Module):
    """Ids to logits of the next id.

    Args:
        vocabulary_size: Ids.
        tied: Whether the output layer is the embedding.
        **network: Arguments of :class:`Transformer`.
    """

    def __init__(self, vocabulary_size: int, tied: bool = True, **network: int | float | None) -> None:
        super().__init__()
        self.transformer = Transformer(**network)  # type: ignore[arg-type]
        self.embedding = nn.Embedding(vocabulary_size, self.transformer.dim)
        nn.init.normal_(self.embedding.weight, std=0.02)
        self.head = FewRowsLinear(self.transformer.dim, vocabulary_size)
        if tied:
            self.head.weight = self.embedding.weight
        else:
            nn.init.normal_(self.head.weight, std=0.02)

    def embed(self, ids: Tensor) -> Tensor:
        """Embeddings ``[B, L, D]`` of ids ``[B, L]``."""
        return self.embedding(ids)

    def forward(
        self,
        ids: Tensor | None = None,
        valid: Tensor | None = None,
        past: Cache | None = None,
        *,
        inputs_embeds: Tensor | None = None,
        positions: Tensor | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> LMOutput:
        """Logits of the ids after these.

        Args:
            ids: int ``[B, L]``.
            valid: Which steps are real; this and the next as in :meth:`Transformer.forward`.
            past: The cache.
            inputs_embeds: Embeddings ``[B, L, D]`` instead of ids.
            positions: Of the steps.
            output_hidden_states: Whether to give what layers give.
            output_attentions: Whether to give what they attend to.

        Raises:
            ValueError: If there is not one of ids and embeddings.
        """
        if (ids is None) == (inputs_embeds is None):
            raise ValueError("either ids or inputs_embeds must be given, got both or neither")
        x = self.embed(ids) if ids is not None else inputs_embeds
        wanted = output_hidden_states or output_attentions
        trace = Trace(attentions=[] if output_attentions else None) if wanted else None
        y = self.transformer(x, valid, past, positions, trace)
        return LMOutput(
            self.head(y),
            tuple(trace.hidden) if trace is not None and output_hidden_states else None,
            tuple(trace.attentions) if trace is not None and trace.attentions is not None else None,
            past,
        )

    def flops_per_token(self, context: int, *, training: bool = False) -> int:
        """As :meth:`Transformer.flops_per_token`, with the output layer."""
        head = 2 * self.head.weight.numel() * (3 if training else 1)
        return self.transformer.flops_per_token(context, training=training) + head

    def prefill(self, ids: Tensor, valid: Tensor | None, capacity: int) -> tuple[Tensor, Cache]:
        """Prompts ``[B, S, 1]`` to features ``[B, D]`` and a cache (:class:`~tokenizers_mm.lm.sampling.Generates`)."""
        cache = self.transformer.cache(len(ids), capacity)
        return self.transformer(self.embed(ids[..., 0]), valid, cache)[:, -1], cache

    def advance(self, ids: Tensor, cache: Cache) -> Tensor:
        """The next features ``[B, D]`` after ids ``[B, 1]``."""
        return self.transformer(self.embed(ids), None, cache)[:, -1]

    def read(self, hidden: Tensor, choose: Callable[[int, Tensor], Tensor]) -> Tensor:
        """Ids ``[B, 1]`` chosen after features ``[B, D]``."""
        return choose(0, self.head(hidden))[:, None]

    def generate(
        self,
        ids: Tensor,
        steps: int,
        *,
        valid: Tensor | None = None,
        samples: int = 1,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float = 1.0,
        allowed: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Continuations of prompts: :func:`~tokenizers_mm.lm.sampling.generate` with the options that one stream of ids needs.

        Args:
            ids: Prompts ``[B, L]``, padded on the left.
            steps: New ids.
            valid: Which ids are real, bool ``[B, L]``.
            samples: Continuations of each prompt.
            temperature: Of the softmax; 0 takes the likeliest id.
            top_k: Draw only from so many of the likeliest.
            top_p: Draw only from the likeliest that together reach this probability.
            allowed: Ids that may come, bool ``[V]``.
            generator: Of the draws.

        Returns:
            int64 ``[B, samples, steps]``.
        """
        found = generate(
            self, ids[..., None], steps, valid=valid, samples=samples, sampling=Sampling(temperature, top_k, top_p),
            mask=None if allowed is None else lambda step, lane, so_far: allowed[None], generators=generator,
        )  # fmt: skip
        return rearrange(found.ids, "(b s) l 1 -> b s l", s=samples)
