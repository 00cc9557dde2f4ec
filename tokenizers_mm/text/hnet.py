"""Learned chunks: H-Net of one stage, "Dynamic Chunking for End-to-End Hierarchical Sequence Modeling" (Hwang, Wang, Gu, 2025).

A router compares neighbouring byte states; where they differ a chunk begins, whose state the backbone reads. Its output is
smoothed over chunks by the router's confidence and added back to bytes. Ours has windowed attention where the paper has Mamba-2.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tokenizers_mm.lm.backbone import Transformer
from tokenizers_mm.text.model import Scores, Session, TextLM, costs
from tokenizers_mm.text.rows import START, Rows
from tokenizers_mm.text.segmenters.learned import Router, ratio_loss

_SURE = 1e-4  # confidence is kept so far from 0 and 1


class HNet(TextLM):
    """Bytes in chunks that are learned together with all else; the sizes of the published one-stage L by default.

    Args:
        dim: Width over bytes d.
        encoder_layers: Blocks before chunks.
        decoder_layers: Blocks after.
        heads: Of both.
        window: Bytes that one sees at most.
        backbone_dim: Width over chunks D, at least ``dim``; a learned vector fills up.
        backbone_layers: Blocks over chunks.
        backbone_heads: Of them.
        chunk: Bytes of a chunk that the ratio loss aims at, N.
        ratio_weight: Of that loss.
    """

    def __init__(
        self,
        dim: int = 1024,
        encoder_layers: int = 4,
        decoder_layers: int = 4,
        heads: int = 16,
        window: int = 1024,
        backbone_dim: int = 1536,
        backbone_layers: int = 22,
        backbone_heads: int = 16,
        chunk: float = 6.0,
        ratio_weight: float = 0.03,
    ) -> None:
        super().__init__()
        if backbone_dim < dim or chunk <= 1:
            raise ValueError(f"backbone_dim must be at least dim and chunk above 1, got {backbone_dim}, {dim}, {chunk}")
        self.chunk, self.ratio_weight = chunk, ratio_weight
        self.embedding = nn.Embedding(256, dim)
        nn.init.normal_(self.embedding.weight, std=1.0)
        self.encoder = Transformer(dim, encoder_layers, heads, window=window)
        self.router = Router(dim)
        self.fill = nn.Parameter(torch.zeros(backbone_dim - dim))
        self.backbone = Transformer(backbone_dim, backbone_layers, backbone_heads)
        self.residual = nn.Linear(dim, dim, bias=False)
        nn.init.zeros_(self.residual.weight)
        self.decoder = Transformer(dim, decoder_layers, heads, window=window)
        self.head = nn.Linear(dim, 256, bias=False)
        nn.init.normal_(self.head.weight, std=0.02)

    def widen(self, states: Tensor) -> Tensor:
        """Byte states as the backbone's input, ``[..., d] -> [..., D]``."""
        return torch.cat([states, self.fill.expand(*states.shape[:-1], -1)], dim=-1)

    def score(self, signal: Tensor) -> Scores:
        rows = Rows.of(signal, lambda data: torch.zeros(1, dtype=torch.int64).numpy())
        before = torch.cat([rows.ids[:, :1], rows.ids[:, :-1]], dim=1)
        x = self.embedding(before.where(rows.position > 0, START))
        h = self.encoder.packed(x, rows.position, rows.document)
        fresh = rows.position == 0
        p = self.router(h, fresh)
        border = (p > 0.5) & rows.valid
        chunks = Chunks.of(border, rows.document)
        z = self.backbone.packed(self.widen(chunks.gather(h)), chunks.position, chunks.document)[..., : h.shape[-1]]
        sure = chunks.gather(p[..., None])[..., 0].clamp(_SURE, 1 - _SURE)
        y = smooth(z, sure, chunks.document).gather(1, chunks.of_step[..., None].expand(-1, -1, h.shape[-1]))
        z = self.decoder.packed(join(y, p, self.residual(h)), rows.position, rows.document)
        nats, right = costs(self.head(z), rows.ids.where(rows.valid, -100))
        return Scores(nats, right, self.ratio_weight * ratio_loss(p[rows.valid], border[rows.valid], self.chunk))

    def session(self, prompts: Sequence[bytes], room: int) -> HNetSession:
        return HNetSession(self, prompts, room)


class Chunks:
    """Chunks of rows of bytes, padded to the same number.

    Args:
        starts: First byte of each, ``[B, M]``.
        of_step: Chunk of each byte, ``[B, L]``.
        position: Place in the document, ``[B, M]``.
        document: Its number, ``[B, M]``; -1 for padding.
    """

    def __init__(self, starts: Tensor, of_step: Tensor, position: Tensor, document: Tensor) -> None:
        self.starts, self.of_step, self.position, self.document = starts, of_step, position, document

    @classmethod
    def of(cls, border: Tensor, documents: Tensor) -> Chunks:
        """Those that begin at ``border [B, L]``."""
        counts = border.sum(dim=1)
        most = max(int(counts.max()), 1)
        starts = border.long().argsort(dim=1, descending=True, stable=True)[:, :most]
        real = torch.arange(most, device=border.device) < counts[:, None]
        document = documents.gather(1, starts).where(real, -1)
        index = torch.arange(most, device=border.device).expand_as(starts)
        fresh = torch.cat([torch.ones_like(real[:, :1]), document[:, 1:] != document[:, :-1]], dim=1)
        position = index - (index * fresh).cummax(dim=1).values
        return cls(starts, (border.long().cumsum(dim=1) - 1).clamp(min=0), position, document)

    def gather(self, x: Tensor) -> Tensor:
        """What stands at their first bytes, ``[B, L, d] -> [B, M, d]``."""
        return x.gather(1, self.starts[..., None].expand(-1, -1, x.shape[-1]))


def smooth(z: Tensor, sure: Tensor, document: Tensor, last: Tensor | None = None) -> Tensor:
    """``y_t = P_t z_t + (1 - P_t) y_(t-1)`` within documents.

    Args:
        z: ``[B, M, d]``.
        sure: P, ``[B, M]``, inside (0, 1).
        document: Number of its document, ``[B, M]``.
        last: y before the first, ``[B, d]``; zero by default.
    """
    fading = torch.log1p(-sure.double()).cumsum(dim=1)
    steps = torch.arange(z.shape[1], device=z.device)
    seen = (steps <= steps[:, None]) & (document[:, :, None] == document[:, None, :])
    share = (fading[:, :, None] - fading[:, None, :]).masked_fill(~seen, -torch.inf).exp().to(z.dtype) * sure[
        :, None, :
    ]
    y = share @ z
    return y if last is None else y + fading.exp().to(z.dtype)[..., None] * last[:, None]


def join(y: Tensor, p: Tensor, residual: Tensor) -> Tensor:
    """Chunk outputs at bytes and what goes past them; the router's confidence is 1 forward and passes the gradient."""
    sure = torch.where(p > 0.5, p, 1 - p)
    return y * (sure + (1 - sure).detach())[..., None] + residual


class HNetSession(Session):
    """Caches of bytes and of chunks, the last byte's state and the last smoothed output."""

    @torch.no_grad()
    def __init__(self, model: HNet, prompts: Sequence[bytes], room: int) -> None:
        self.model, device = model, model.head.weight.device
        rows, longest = len(prompts), max(map(len, prompts)) + 1
        total = longest + room
        ring = min(total, (model.encoder.window or total) + longest)
        self.encoder, self.decoder = model.encoder.slots(rows, ring), model.decoder.slots(rows, ring)
        self.backbone = model.backbone.slots(rows, total)
        self.state = torch.zeros(rows, model.encoder.dim, device=device)
        self.output = torch.zeros_like(self.state)
        self.bytes, self.chunks = (torch.zeros(rows, dtype=torch.int64, device=device) for _ in range(2))
        ids = torch.full((rows, longest), START, dtype=torch.int64, device=device)
        for i, prompt in enumerate(prompts):
            ids[i, 1 : len(prompt) + 1] = torch.tensor(list(prompt), dtype=torch.int64)
        self._extend(ids, torch.tensor([len(prompt) + 1 for prompt in prompts], device=device))

    @torch.no_grad()
    def push(self, ids: Tensor) -> list[bytes]:
        self._extend(ids[:, None], torch.ones_like(ids))
        return [bytes([value]) for value in ids.tolist()]

    def _extend(self, ids: Tensor, counts: Tensor) -> None:
        """Take ``counts [B]`` of ``ids [B, L]``."""
        model, everyone = self.model, torch.arange(len(ids), device=ids.device)
        step = torch.arange(ids.shape[1], device=ids.device)
        real = step < counts[:, None]
        places = (self.bytes[:, None] + step).where(real, -1)
        h = model.encoder.advance(model.embedding(ids), self.encoder, everyone, places)
        p = model.router(torch.cat([self.state[:, None], h], dim=1))[:, 1:].masked_fill(places == 0, 1.0)
        border = (p > 0.5) & real
        chunks, found = Chunks.of(border, torch.zeros_like(ids)), border.sum(dim=1)
        valid = chunks.document >= 0
        x = model.widen(chunks.gather(h))
        of_chunks = (self.chunks[:, None] + torch.arange(x.shape[1], device=ids.device)).where(valid, -1)
        z = model.backbone.advance(x, self.backbone, everyone, of_chunks)[..., : h.shape[-1]]
        sure = chunks.gather(p[..., None])[..., 0].clamp(_SURE, 1 - _SURE)
        y = smooth(z, sure, chunks.document, self.output)
        series = torch.cat([self.output[:, None], y], dim=1)
        of_step = border.long().cumsum(dim=1)[..., None].expand(-1, -1, h.shape[-1])
        joined = join(series.gather(1, of_step), p, model.residual(h))
        features = model.decoder.advance(joined, self.decoder, everyone, places)
        self.state = h[everyone, counts - 1]
        self.output = series[everyone, found]
        self.bytes, self.chunks = self.bytes + counts, self.chunks + found
        self.logits = model.head(features[everyone, counts - 1])
        self.allowed = torch.ones_like(self.logits, dtype=torch.bool)
