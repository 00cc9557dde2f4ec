"""The encoder of TimeRCD ("Towards Foundation Models for Zero-Shot Time Series Anomaly Detection", Lan et al., 2025).

Patches of all variates form one sequence, variate after variate; attention knows their place by rotary positions over that
sequence and, between variates, by one learned number per head. Two differences from the published code: positions count an
item's own patches, so that padding changes nothing, and the variates' bias rides on extra dimensions of queries and keys
instead of a matrix, so that memory grows with the length and not with its square.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

ROTARY_BASE = 10_000.0


class PatchEncoder(nn.Module):
    """Pre-norm transformer over the patches of a multivariate series; no norm at the end.

    Args:
        patch_size: Steps per patch.
        dim: Width.
        layers: Depth.
        heads: Attention heads.
        dropout: Of the feed-forward branch.
        multivariate: Whether attention tells a patch's own variate from the others.

    Raises:
        ValueError: If ``dim`` is odd or not a multiple of ``heads``.
    """

    def __init__(self, patch_size: int, dim: int, layers: int, heads: int, dropout: float, multivariate: bool) -> None:
        super().__init__()
        if dim % heads or dim % 2:
            raise ValueError(f"dim must be even and a multiple of heads, got {dim} and {heads}")
        self.patch_size, self.dim = patch_size, dim
        self.embed = nn.Linear(patch_size, dim)
        self.layers = nn.ModuleList(EncoderLayer(dim, heads, dropout, multivariate) for _ in range(layers))

    def forward(self, x: Tensor, lengths: Tensor, valid: Tensor) -> Tensor:
        """One vector per patch.

        Args:
            x: ``[B, C, N]``, N a multiple of the patch size; what is not valid should be zero.
            lengths: Steps of each item, ``[B]``: where positions of the next variate go on.
            valid: Steps that may be attended to, bool ``[B, N]``; a patch counts if one of its steps does.

        Returns:
            ``[B, C, N / patch_size, dim]``.
        """
        channels = x.shape[1]
        patches = rearrange(x, "b c (p s) -> b (c p) s", s=self.patch_size)
        count = x.shape[-1] // self.patch_size
        own = -(-lengths // self.patch_size)
        places = (
            torch.arange(count, device=x.device) + own[:, None, None] * torch.arange(channels, device=x.device)[:, None]
        )
        rotation = rotary(places.flatten(1), self.dim)
        usable = rearrange(valid, "b (p s) -> b p s", s=self.patch_size).any(-1).repeat(1, channels)
        variates = torch.arange(channels, device=x.device).repeat_interleave(count)
        h = self.embed(patches).to(
            self.embed.weight.dtype
        )  # in mixed precision, too, the residual stream keeps its digits
        for layer in self.layers:
            h = layer(h, rotation, usable, variates)
        return rearrange(h, "b (c p) d -> b c p d", c=channels)


class EncoderLayer(nn.Module):
    """RMSNorm and attention, RMSNorm and a gated feed-forward network, both residual."""

    def __init__(self, dim: int, heads: int, dropout: float, multivariate: bool) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(dim, eps=1e-5)
        self.attention = VariateAttention(dim, heads, multivariate)
        self.mlp_norm = nn.RMSNorm(dim, eps=1e-5)
        self.mlp = GatedMLP(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, h: Tensor, rotation: tuple[Tensor, Tensor], usable: Tensor, variates: Tensor) -> Tensor:
        h = h + self.attention(self.attention_norm(h), rotation, usable, variates)
        return h + self.dropout(self.mlp(self.mlp_norm(h)))


class VariateAttention(nn.Module):
    """Attention without biases in its projections, rotated before the heads are split, with a bias per head for pairs of
    patches of the same variate and one for pairs of different ones."""

    def __init__(self, dim: int, heads: int, multivariate: bool) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(dim, dim, bias=False) for _ in range(4))
        self.variate_bias = nn.Parameter(torch.randn(2, heads)) if multivariate else None  # different, same

    def forward(self, h: Tensor, rotation: tuple[Tensor, Tensor], usable: Tensor, variates: Tensor) -> Tensor:
        q, k = rotate(self.query(h), rotation), rotate(self.key(h), rotation)
        q, k, v = (rearrange(x, "b l (h d) -> b h l d", h=self.heads) for x in (q, k, self.value(h)))
        scale = q.shape[-1] ** -0.5
        width = v.shape[-1]
        if self.variate_bias is not None:
            q, k, v = self._with_bias(q, k, v, variates, scale)
        mask = None if bool(usable.all()) else usable[:, None, None, :]
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)[..., :width]
        return self.out(rearrange(y, "b h l d -> b l (h d)"))

    def _with_bias(
        self, q: Tensor, k: Tensor, v: Tensor, variates: Tensor, scale: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One-hot variates behind queries and keys, whose product adds the bias of a patch's own variate.

        Softmax ignores what is added to all scores of a query, so the difference of the two biases is all there is to add.
        """
        assert self.variate_bias is not None
        hot = F.one_hot(variates).to(q.dtype).expand(*q.shape[:2], -1, -1)
        different, same = self.variate_bias[:, :, None, None]
        q = torch.cat([q, hot * ((same - different) / scale)], dim=-1)
        return q, torch.cat([k, hot], dim=-1), F.pad(v, (0, hot.shape[-1]))


class GatedMLP(nn.Module):
    """``down(gelu(gate(x)) * up(x))``, four times as wide inside."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gate, self.up, self.down = nn.Linear(dim, 4 * dim), nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.gelu(self.gate(x)) * self.up(x))


def rotary(places: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines ``[B, L, dim / 2]`` of positions ``[B, L]``, over the whole width: heads see different frequencies."""
    frequencies = 1.0 / ROTARY_BASE ** (torch.arange(0, dim, 2, device=places.device).float() / dim)
    angles = places[..., None].float() * frequencies
    return angles.cos(), angles.sin()


def rotate(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """``x [B, L, D]`` with each pair of neighbouring numbers turned by its angle."""
    cos, sin = (part.to(x.dtype) for part in rotation)
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2)
