"""Losses of series in the space of RevIN, where windows of any scale count alike, missing samples left out."""

from __future__ import annotations

from torch import Tensor, nn

from tokenizers_mm.timeseries.scaling import revin_scale


class RevINLoss(nn.Module):
    """Mean squared error in units of each window's own deviation: what TOTEM minimises."""

    def forward(self, estimate: Tensor, reference: Tensor) -> Tensor:
        """Scalar loss of signals ``[B, C, T]``."""
        _, deviation = revin_scale(reference)
        observed = ~reference.isnan()
        error = ((estimate - reference) / deviation[..., None]).masked_fill(~observed, 0)
        return error.square().sum() / observed.sum().clamp(min=1)
