"""TimeRCD: zero-shot anomaly detection in time series of any kind.

"Towards Foundation Models for Zero-Shot Time Series Anomaly Detection: Leveraging Synthetic Data and Relative Context
Discrepancy" (Lan et al., 2025). An encoder is trained, on generated series with labels, to say of every time step whether it
disagrees with its surroundings. Where we differ: windows of long series overlap and their logits are averaged, series are
standardised one by one in training too, and padding never reaches a score.

The order of variates matters, through the rotary positions and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import torch
from einops import rearrange
from torch import Tensor, nn

from tokenizers_mm.timeseries.timercd_encoder import PatchEncoder
from tokenizers_mm.weights import load_network, save_network


@dataclass(frozen=True)
class Labelling:
    """What the network says of a batch.

    Args:
        logits: Of "normal" and "anomalous" per step, ``[B, N, 2]``, the mean over variates.
        reconstruction: ``[B, C, N]``, for the auxiliary task of filling hidden patches.
    """

    logits: Tensor
    reconstruction: Tensor


class TimeRCD(nn.Module):
    """A patch transformer with a label and a reconstruction for every time step; the paper's configuration by default.

    Args:
        patch_size: Steps per patch.
        dim: Width of the encoder.
        step_dim: Width of the vector that each step and variate gets.
        layers: Depth of the encoder.
        heads: Attention heads.
        dropout: In feed-forward branches and heads.
        multivariate: Whether it is for series of several variates (the published ones are for either).
        window: Steps that :meth:`predict` shows it at once: as many as it was trained on.
    """

    def __init__(
        self,
        patch_size: int = 16,
        dim: int = 512,
        step_dim: int = 256,
        layers: int = 8,
        heads: int = 8,
        dropout: float = 0.1,
        multivariate: bool = False,
        window: int = 5000,
    ) -> None:
        super().__init__()
        self.config: dict[str, Any] = {
            "patch_size": patch_size,
            "dim": dim,
            "step_dim": step_dim,
            "layers": layers,
            "heads": heads,
            "dropout": dropout,
            "multivariate": multivariate,
            "window": window,
        }
        self.patch_size, self.multivariate, self.window = patch_size, multivariate, window
        self.encoder = PatchEncoder(patch_size, dim, layers, heads, dropout, multivariate)
        self.project = nn.Linear(dim, patch_size * step_dim)
        self.anomaly_head = _head((step_dim, step_dim // 2, 2), dropout)
        self.reconstruction_head = _head((step_dim, 4 * step_dim, 4 * step_dim, 1), dropout)

    def forward(self, x: Tensor, lengths: Tensor | None = None, hidden: Tensor | None = None) -> Labelling:
        """Label and reconstruct every step.

        Args:
            x: Standardised series ``[B, C, N]``.
            lengths: Valid steps of each item, int ``[B]``; by default all. What follows them changes nothing before.
            hidden: Steps that the network must not see, bool ``[B, N]``.

        Raises:
            ValueError: If the number of variates is not what the network is for, or shapes disagree.
        """
        steps = self.embed(x, lengths, hidden)
        return Labelling(self.anomaly_head(steps).mean(dim=2), self.reconstruction_head(steps)[..., 0].transpose(1, 2))

    def embed(self, x: Tensor, lengths: Tensor | None = None, hidden: Tensor | None = None) -> Tensor:
        """A vector for each step and variate, ``[B, N, C, step_dim]``; arguments as :meth:`forward`'s."""
        self._check(x)
        size, n = len(x), x.shape[-1]
        lengths = torch.full((size,), n, device=x.device) if lengths is None else lengths.to(x.device)
        if lengths.shape != (size,) or bool((lengths < 1).any()) or bool((lengths > n).any()):
            raise ValueError(f"lengths must be {size} numbers from 1 to {n}, got {lengths.tolist()}")
        padding = -n % self.patch_size
        x = nn.functional.pad(x, (0, padding))
        valid = torch.arange(n + padding, device=x.device) < lengths[:, None]
        if hidden is not None:
            valid = valid & ~nn.functional.pad(hidden, (0, padding))
        h = self.encoder(x.masked_fill(~valid[:, None], 0.0), lengths, valid)
        return rearrange(self.project(h), "b c p (s d) -> b (p s) c d", s=self.patch_size)[:, :n]

    @torch.inference_mode()
    def predict(
        self,
        x: Tensor,
        *,
        return_logits: bool = False,
        window: int | None = None,
        overlap: float = 0.5,
        batch_size: int = 16,
        max_patches: int = 8192,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Score every step of one series of any length: see :func:`tokenizers_mm.timeseries.windows.predict`."""
        from tokenizers_mm.timeseries.windows import predict

        scores, logits = predict(
            self, x, window=window or self.window, overlap=overlap, batch_size=batch_size, max_patches=max_patches
        )
        return (scores, logits) if return_logits else scores

    @property
    def device(self) -> torch.device:
        return self.project.weight.device

    def _check(self, x: Tensor) -> None:
        if x.ndim != 3 or x.numel() == 0:
            raise ValueError(f"x must be series [B, C, N] with at least one step, got {list(x.shape)}")
        if self.multivariate != (x.shape[1] > 1):
            wanted = "several variates" if self.multivariate else "one variate"
            raise ValueError(f"this TimeRCD is for {wanted}, got {x.shape[1]}")

    # -- files ---------------------------------------------------------------------------------------------------------

    def save_pretrained(self, folder: str | Path, *, dtype: torch.dtype | None = None) -> None:
        """Write ``config.json`` and ``model.safetensors``.

        Args:
            folder: Made if it does not exist.
            dtype: Of the weights in the file; loading gives float32 again.
        """
        save_network(self, folder, dtype=dtype)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Self:
        """A detector from a folder that :meth:`save_pretrained` or the converter wrote, in evaluation mode.

        Raises:
            FileNotFoundError: If a file is missing.
            ValueError: If the configuration or the weights are not TimeRCD's.
        """
        return load_network(cls, folder)


def _head(widths: tuple[int, ...], dropout: float) -> nn.Sequential:
    """Linear layers with GELU and dropout between, drawn by Xavier's normal rule."""
    layers: list[nn.Module] = []
    for narrow, wide in pairwise(widths):
        linear = nn.Linear(narrow, wide)
        nn.init.xavier_normal_(linear.weight)
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.GELU(), nn.Dropout(dropout)]
    return nn.Sequential(*layers[:-2])
