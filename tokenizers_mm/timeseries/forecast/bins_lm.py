"""A language model of bins: a decoder-only transformer over the ids of :class:`~tokenizers_mm.timeseries.ChronosBins`.

Ansari et al., "Chronos", 2024, whose causal variant is a GPT-2; ours has rotary positions and a cache. Horizons beyond
``block`` go on from the median of the paths, as published, with a new scale.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from tokenizers_mm.lm.backbone import DecoderLM
from tokenizers_mm.stored import Stored
from tokenizers_mm.timeseries.binning import PAD, ChronosBins
from tokenizers_mm.timeseries.scaling import mean_scale


class BinForecaster(Stored):
    """Samples the future of each channel, id by id.

    Args:
        vocabulary_size: Bins and special ids.
        low: Centre of the lowest bin.
        high: Centre of the highest.
        context: Values of the past that it reads at most.
        block: Values that it writes before the scale is computed anew.
        dim: Width.
        layers: Blocks.
        heads: Of attention.
    """

    def __init__(
        self,
        vocabulary_size: int = 4096,
        low: float = -15.0,
        high: float = 15.0,
        context: int = 512,
        block: int = 64,
        dim: int = 256,
        layers: int = 4,
        heads: int = 4,
    ) -> None:
        super().__init__()
        self.bins = ChronosBins(vocabulary_size, low=low, high=high)
        self.lm = DecoderLM(vocabulary_size, dim=dim, layers=layers, heads=heads)
        self.context, self.block = context, block

    def forward(self, past: Tensor, future: Tensor) -> Tensor:
        """Cross-entropy of the future's ids, in the scale of the past; missing values are not counted.

        Args:
            past: ``[B, C, N]``.
            future: ``[B, C, H]``.
        """
        past = past[..., -self.context :].flatten(0, 1)
        scale = mean_scale(past)[:, None]
        ids = self.bins.quantize(torch.cat([past, future.flatten(0, 1)], dim=1) / scale)
        logits = self.lm(ids[:, :-1]).logits[:, past.shape[1] - 1 :]
        return F.cross_entropy(logits.flatten(0, 1), ids[:, past.shape[1] :].flatten(), ignore_index=PAD)

    def loss(self, signal: Tensor) -> Tensor:
        """Cross-entropy of the last ``block`` samples of windows ``[B, C, T]``, given those before.

        Raises:
            ValueError: If nothing is before them.
        """
        if signal.shape[-1] <= self.block:
            raise ValueError(f"windows must be longer than block, {self.block} samples, got {signal.shape[-1]}")
        return self(signal[..., : -self.block], signal[..., -self.block :])

    @torch.no_grad()
    def predict(
        self,
        past: Tensor,
        horizon: int,
        *,
        samples: int = 20,
        temperature: float = 1.0,
        top_k: int | None = 50,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Sample paths ``[B, C, horizon, samples]``.

        Args:
            past: ``[B, C, N]``, NaN where missing.
            horizon: Values ahead.
            samples: Paths.
            temperature: Of the draws.
            top_k: Draw from so many of the likeliest bins.
            generator: Of the draws.

        Raises:
            ValueError: If the horizon is not positive.
        """
        if horizon < 1:
            raise ValueError(f"horizon must be at least 1, got {horizon}")
        rows, pieces, allowed = (
            past.flatten(0, 1),
            [],
            torch.arange(self.bins.spec.codebook_sizes[0]) >= self.bins.first,
        )
        for start in range(0, horizon, self.block):
            seen = rows[:, -self.context :]
            scale = mean_scale(seen)
            ids = self.lm.generate(
                self.bins.quantize(seen / scale[:, None]), min(self.block, horizon - start), samples=samples,
                temperature=temperature, top_k=top_k, allowed=allowed.to(past.device), generator=generator,
            )  # fmt: skip
            paths = self.bins.values(ids) * scale[:, None, None]
            pieces.append(paths)
            rows = torch.cat([rows, paths.quantile(0.5, dim=1)], dim=1)
        return rearrange(torch.cat(pieces, dim=-1), "(b c) s h -> b c h s", b=len(past))
