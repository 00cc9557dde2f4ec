"""TOTEM's forecaster: a small transformer over the codes of a frozen tokenizer, and a network for the shift of the scale.

Talukder et al., "TOTEM", 2024. The loss sums four smooth L1 terms (beta 0.1), as published: the normalised forecast, the shifts
of mean and deviation, and the final forecast with the shifts detached.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from tokenizers_mm import registry
from tokenizers_mm.stored import Stored
from tokenizers_mm.timeseries.scaling import revin_scale
from tokenizers_mm.timeseries.totem import TOTEM, normalised


@dataclass
class TOTEMForecast:
    """What the forecaster returns.

    Args:
        forecast: ``[B, C, H]`` in the units of the past.
        normalised: ``[B, C, H]`` before the scale is put back.
        shifts: Of mean and deviation from past to future, ``[B, C, 2]``.
        mean: Of the past, ``[B, C]``.
        deviation: Of the past, ``[B, C]``.
    """

    forecast: Tensor
    normalised: Tensor
    shifts: Tensor
    mean: Tensor
    deviation: Tensor


class TOTEMForecaster(nn.Module):
    """Codes of the past to the future of each channel.

    Args:
        tokens: Codes of the past, T.
        horizon: Values ahead.
        context: Samples of the past.
        dim: Width of the codes.
        heads: Of attention.
        hidden: Of the feed-forward layers.
        layers: Of the transformer.
        shift_hidden: Of the network for the shifts.
        dropout: Of that network.
    """

    def __init__(
        self,
        tokens: int = 24,
        horizon: int = 96,
        context: int = 96,
        dim: int = 64,
        heads: int = 4,
        hidden: int = 256,
        layers: int = 4,
        shift_hidden: int = 512,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        self.context, self.horizon = context, horizon
        self.register_buffer("positions", _sinusoids(tokens, dim), persistent=False)
        layer = nn.TransformerEncoderLayer(dim, heads, hidden, dropout=0.0, batch_first=True)
        self.transformer = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Linear(tokens * dim, horizon)
        self.shift = nn.Sequential(
            nn.Linear(context + 2, shift_hidden), nn.ReLU(), nn.Dropout(dropout),
            nn.Linear(shift_hidden, shift_hidden), nn.ReLU(), nn.Dropout(dropout),
            nn.Linear(shift_hidden, 2),
        )  # fmt: skip
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.xavier_uniform_(parameter)

    positions: Tensor

    def forward(self, past: Tensor, tokenizer: TOTEM) -> TOTEMForecast:
        """Forecast of windows ``[B, C, context]``.

        Raises:
            ValueError: If the past has another length.
        """
        if past.shape[-1] != self.context:
            raise ValueError(f"past must have {self.context} samples, got {past.shape[-1]}")
        mean, deviation = revin_scale(past)
        with torch.no_grad():
            windows = normalised(past, mean, deviation).flatten(0, 1)
            codes = tokenizer.quantizer.decode(tokenizer.tokenize(windows))
        y = self.transformer(codes + self.positions)
        forecast = rearrange(self.head(y.flatten(1)), "(b c) h -> b c h", b=len(past))
        filled = torch.where(past.isnan(), mean[..., None], past)
        shifts = self.shift(torch.cat([filled, mean[..., None], deviation[..., None]], dim=-1))
        moved = forecast * (deviation + shifts[..., 1])[..., None] + (mean + shifts[..., 0])[..., None]
        return TOTEMForecast(moved, forecast, shifts, mean, deviation)


class TokenizedForecaster(Stored):
    """A tokenizer that stays as it is and a :class:`TOTEMForecaster` over its codes, in one folder.

    Args:
        tokenizer: A TOTEM as a card's name, a folder or ``hf:owner/name``, or its configuration alone.
        horizon: Values ahead.
        context: Samples of the past, a multiple of the tokenizer's factor.
        layers: Of the transformer.
        dropout: Of the network for the shifts.

    Raises:
        ValueError: If the tokenizer is no TOTEM, or does not fit the context.
    """

    token_loss = False

    def __init__(
        self,
        tokenizer: str | Mapping[str, Any],
        horizon: int = 96,
        context: int = 96,
        layers: int = 4,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        codec = registry.load(tokenizer) if isinstance(tokenizer, str) else TOTEM(**tokenizer)
        if not isinstance(codec, TOTEM) or context % codec.factor:
            raise ValueError(
                f"tokenizer must be a TOTEM whose factor divides context {context}, got {type(codec).__name__}"
                + (f" of factor {codec.factor}" if isinstance(codec, TOTEM) else "")
            )
        # a folder of it stands alone: whatever the tokenizer came from, its configuration is what is kept
        self._hub_mixin_config = {"horizon": horizon, "context": context, "layers": layers, "dropout": dropout}
        self._hub_mixin_config["tokenizer"] = codec.config
        self.tokenizer = codec.eval().requires_grad_(False)
        self.forecaster = TOTEMForecaster(
            context // codec.factor,
            horizon,
            context,
            codec.encoder.project.out_channels,
            layers=layers,
            dropout=dropout,
        )

    def train(self, mode: bool = True) -> Self:
        """The tokenizer is in evaluation mode always: its codebook must not move."""
        super().train(mode)
        self.tokenizer.eval()
        return self

    def loss(self, signal: Tensor) -> Tensor:
        """The published objective on windows ``[B, C, context + horizon]``.

        Raises:
            ValueError: If they have another length.
        """
        past, future = self.forecaster.context, self.forecaster.horizon
        if signal.shape[-1] != past + future:
            raise ValueError(f"windows must have {past} + {future} samples, got {signal.shape[-1]}")
        return totem_loss(self.forecaster(signal[..., :past], self.tokenizer), signal[..., past:])

    @torch.no_grad()
    def predict(self, past: Tensor, horizon: int, *, generator: torch.Generator | None = None) -> Tensor:
        """``[B, C, N] -> [B, C, horizon, 1]``, at most the horizon that it was built for; nothing is drawn.

        Raises:
            ValueError: For a longer horizon, or too short a past.
        """
        context = self.forecaster.context
        if not 1 <= horizon <= self.forecaster.horizon or past.shape[-1] < context:
            raise ValueError(
                f"expected a past of at least {context} samples and a horizon of 1 to {self.forecaster.horizon}, "
                f"got {past.shape[-1]} and {horizon}"
            )
        return self.forecaster(past[..., -context:], self.tokenizer).forecast[..., :horizon, None]


def totem_loss(found: TOTEMForecast, future: Tensor) -> Tensor:
    """The published objective of a forecast against the future ``[B, C, H]``: scalar."""
    mean, deviation = revin_scale(future)
    shifts = found.shifts.detach()
    moved = found.normalised * (found.deviation + shifts[..., 1])[..., None] + (found.mean + shifts[..., 0])[..., None]
    pairs = (
        (found.normalised, normalised(future, mean, deviation)),
        (found.shifts[..., 0], mean - found.mean),
        (found.shifts[..., 1], deviation - found.deviation),
        (moved, future),
    )
    return torch.stack([F.smooth_l1_loss(a, b, beta=0.1) for a, b in pairs]).sum()


def _sinusoids(steps: int, dim: int) -> Tensor:
    angles = torch.arange(steps)[:, None] * torch.exp(torch.arange(0, dim, 2) * (-math.log(10000.0) / dim))
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)
