"""HAT as released: "A Family of LLMs Liberated from Static Vocabularies" (Aleph Alpha, 2026), the checkpoints tfree-hat.

Encoder and decoder see all bytes of a window; a splitter says where words end. ``mmtok convert hat`` reads published checkpoints.
Ours counts positions of packed documents from zero and has ``strict_causal``, with which no byte's guide depends on later bytes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from tokenizers_mm.lm.backbone import Transformer, rotate
from tokenizers_mm.text.hat_session import HATTFreeSession
from tokenizers_mm.text.model import Scores, TextLM, costs, shift
from tokenizers_mm.text.rows import Rows, cutter
from tokenizers_mm.text.segmenters import segmenter as make_segmenter


class HATTFree(TextLM):
    """Words by a splitter, pooled by attention, their features added back to bytes; the published 8B model by default.

    The first byte of a document is not predicted; scores count it as one of 256.

    Args:
        dim: Width over bytes d.
        encoder_layers: Blocks before words.
        decoder_layers: Blocks after.
        heads: Of both.
        hidden: Width of their feed-forward layers.
        window: Bytes that one sees at most.
        backbone_dim: Width over words D.
        backbone_layers: Blocks over words.
        backbone_heads: Of them.
        backbone_kv_heads: Keys and values that these share.
        backbone_hidden: Width of their feed-forward layers.
        connector_heads: Of the attention that pools words.
        qk_norm: Normalise queries and keys of each head, as the 7B model trained from scratch does.
        rope_base: Of positions of bytes, and of words where they meet bytes.
        backbone_rope_base: Of positions of words.
        backbone_rope_scaling: Likewise (see :func:`tokenizers_mm.lm.backbone.rotate`).
        segmenter: Name of what cuts words (see :func:`tokenizers_mm.text.segmenters.segmenter`).
        segmenter_options: Its options.
        strict_causal: A word's first character keeps the guide of the word before until it is complete.
        specials: Special tokens in prompts and the byte of each.
        eps: Of the norms.
    """

    def __init__(
        self,
        dim: int = 1024,
        encoder_layers: int = 6,
        decoder_layers: int = 4,
        heads: int = 8,
        hidden: int = 2816,
        window: int = 768,
        backbone_dim: int = 4096,
        backbone_layers: int = 32,
        backbone_heads: int = 32,
        backbone_kv_heads: int = 8,
        backbone_hidden: int = 14336,
        connector_heads: int = 32,
        qk_norm: bool = False,
        rope_base: float = 500000.0,
        backbone_rope_base: float = 500000.0,
        backbone_rope_scaling: Mapping[str, float] | None = None,
        segmenter: str = "uax29",
        segmenter_options: dict[str, Any] | None = None,
        strict_causal: bool = False,
        specials: dict[str, int] | None = None,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.segmenter, self.strict = make_segmenter(segmenter, **segmenter_options or {}), strict_causal
        self.cut = cutter(self.segmenter, strict=strict_causal)
        self.specials = {"<|eot_id|>": 192} if specials is None else specials
        local: dict[str, Any] = {
            "heads": heads, "hidden": hidden, "rope_base": rope_base, "window": window, "qk_norm": qk_norm,
            "final_norm": False, "eps": eps,
        }  # fmt: skip
        self.embedding = nn.Embedding(256, dim)
        self.encoder = Transformer(dim, encoder_layers, **local)
        self.connector = Connector(dim, backbone_dim, connector_heads, rope_base, qk_norm, eps)
        self.backbone = Transformer(
            backbone_dim, backbone_layers, backbone_heads, backbone_kv_heads, backbone_hidden,
            rope_base=backbone_rope_base, rope_scaling=backbone_rope_scaling, qk_norm=qk_norm, final_norm=False, eps=eps,
        )  # fmt: skip
        self.first = nn.Parameter(torch.zeros(backbone_dim))
        self.decoder = Transformer(dim, decoder_layers, **local)
        self.guides = nn.ModuleList(Guide(dim, backbone_dim, heads, qk_norm, eps) for _ in range(decoder_layers))
        self.norm = nn.RMSNorm(dim, eps=eps)
        self.head = nn.Linear(dim, 256, bias=False)
        for weight in (self.embedding.weight, self.head.weight):
            nn.init.normal_(weight, std=0.02)

    def logits(self, rows: Rows) -> Tensor:
        """Of the byte after each, ``[B, L, 256]``."""
        h = self.encoder.packed(self.embedding(rows.ids), rows.position, rows.document)
        features = self.backbone.packed(self.pool(h, rows), rows.word_position, rows.word_document)
        guides = shift(features, self.first, rows.word_position == 0)
        inject = [guide(guides).gather(1, rows.guide[..., None].expand(-1, -1, h.shape[-1])) for guide in self.guides]
        z = self.decoder.packed(h, rows.position, rows.document, inject)
        return self.head(self.norm(z))

    def pool(self, h: Tensor, rows: Rows) -> Tensor:
        """Word vectors ``[B, W, D]`` of byte states ``[B, L, d]``."""
        flat, positions = h.flatten(0, 1), rows.position.flatten()
        out = h.new_zeros(rows.lengths.numel(), self.backbone.dim)
        words, found = [], []
        for bucket in rows.buckets():
            words.append(bucket.words)
            of_words = rows.word_position.flatten()[bucket.words]
            found.append(self.connector(flat[bucket.index], positions[bucket.index], bucket.inside, of_words))
        out = out.index_copy(0, torch.cat(words), torch.cat(found)) if words else out
        return out.view(*rows.lengths.shape, -1)

    def score(self, signal: Tensor) -> Scores:
        rows = Rows.of(signal, self.cut, strict=self.strict)
        fresh = rows.position == 0
        targets = rows.ids.where(rows.valid & ~fresh, -100)
        cost, right = costs(self.logits(rows)[:, :-1], targets[:, 1:])
        unknown = (fresh & rows.valid) * math.log(256)
        return Scores(F.pad(cost, (1, 0)) + unknown, F.pad(right, (1, 0)))

    def prompt(self, text: str) -> bytes:
        """Bytes of a text, in which special tokens are their marks."""
        if not self.specials:
            return text.encode("utf-8")
        pieces = re.split(f"({'|'.join(map(re.escape, self.specials))})", text)
        return b"".join(bytes([self.specials[p]]) if p in self.specials else p.encode("utf-8") for p in pieces)

    def session(self, prompts: Sequence[bytes], room: int) -> HATTFreeSession:
        return HATTFreeSession(self, prompts, room)


class Connector(nn.Module):
    """One learned query for every word, over the word's own bytes: positions of words against those of bytes, as published.

    Args:
        dim: Width of bytes.
        word_dim: Width of words.
        heads: Of the attention.
        rope_base: Of the positions.
        qk_norm: Normalise queries and keys of each head.
        eps: Of these norms.
    """

    def __init__(self, dim: int, word_dim: int, heads: int, rope_base: float, qk_norm: bool, eps: float) -> None:
        super().__init__()
        self.heads, self.rope_base = heads, rope_base
        self.latent = nn.Parameter(torch.randn(word_dim) * 0.02)
        self.query = nn.Linear(word_dim, word_dim, bias=False)
        self.key = nn.Linear(dim, word_dim, bias=False)
        self.value = nn.Linear(dim, word_dim, bias=False)
        self.out = nn.Linear(word_dim, word_dim, bias=False)
        self.query_norm = nn.RMSNorm(word_dim // heads, eps=eps) if qk_norm else nn.Identity()
        self.key_norm = nn.RMSNorm(word_dim // heads, eps=eps) if qk_norm else nn.Identity()

    def forward(self, h: Tensor, positions: Tensor, inside: Tensor, word_positions: Tensor) -> Tensor:
        """Vectors ``[n, D]`` of words of bytes ``[n, S, d]`` at ``positions [n, S]``, padded where not ``inside``."""
        q = self.query(self.latent)[None, None].expand(len(h), -1, -1)
        q = self.query_norm(rearrange(q, "n l (h d) -> n h l d", h=self.heads))
        k = self.key_norm(rearrange(self.key(h), "n s (h d) -> n h s d", h=self.heads))
        v = rearrange(self.value(h), "n s (h d) -> n h s d", h=self.heads)
        q, k = rotate(q, word_positions[:, None], self.rope_base), rotate(k, positions, self.rope_base)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=inside[:, None, None])
        return self.out(rearrange(y, "n h l d -> n (l h d)"))


class Guide(nn.Module):
    """What a word's features add to bytes: attention to one key, which is its value.

    Published checkpoints hold queries, keys and their norms all the same; they are kept, and never used.

    Args:
        dim: Width of bytes.
        word_dim: Width of words.
        heads: Of the attention that this is.
        qk_norm: Whether there are norms of each head.
        eps: Of the norms.
    """

    def __init__(self, dim: int, word_dim: int, heads: int, qk_norm: bool, eps: float) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(word_dim, eps=eps)
        self.value = nn.Linear(word_dim, dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)
        unused = {"byte_norm": nn.RMSNorm(dim, eps=eps), "query": nn.Linear(dim, dim, bias=False)}
        unused["key"] = nn.Linear(word_dim, dim, bias=False)
        if qk_norm:
            unused |= {name: nn.RMSNorm(dim // heads, eps=eps) for name in ("query_norm", "key_norm")}
        self.unused = nn.ModuleDict(unused).requires_grad_(False)

    def forward(self, words: Tensor) -> Tensor:
        """``[..., D] -> [..., d]``."""
        return self.out(self.value(self.norm(words)))
