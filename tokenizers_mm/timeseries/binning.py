"""Chronos' tokenizer: one token per value, the bin that the scaled value falls into.

Ansari et al., "Chronos: Learning the Language of Time Series", 2024 (``MeanScaleUniformBins`` of chronos-forecasting): by
default its ids, bit for bit. Ours are the bins' other spacings (mu-law, quantiles), the standardisation, and the windows with
scales of their own. Binning with its end-of-sequence token, as the published models read it, is in
:mod:`tokenizers_mm.timeseries.chronos`.
"""

from __future__ import annotations

import warnings
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor

from tokenizers_mm.codec import Codec, CodecOutput
from tokenizers_mm.timeseries.scaling import in_windows, mean_scale, standard_scale
from tokenizers_mm.tokens import Tokens, TokenSpec

PAD = 0
_CHUNK = 2**16  # values binned at a time: what fits the processor's cache
_WARN_CLIPPED = 0.01  # share of a batch's values in the outermost bins that is worth a warning
_WARN_FROM = 16  # values of a series whose shape is worth one
Spacing = Literal["uniform", "mu-law", "quantile"]
Scaling = Literal["mean", "standard"]


class ChronosBins(Codec):
    """Values to the ids of the bins that they fall into; by default the tokenizer of Chronos-T5.

    A missing value's id is that of padding, 0; 1 is the end of a sequence (never produced here) and 2 is unused, as published.

    Args:
        vocabulary_size: Ids, special ones included.
        special_tokens: Ids below the bins'.
        low: Centre of the lowest bin, in units of the scale.
        high: Centre of the highest.
        scaling: ``"mean"`` divides by the mean absolute value; ``"standard"`` standardises, which keeps small changes of series
            far from zero apart.
        window: Samples that share a scale; None for the whole series.
        spacing: ``"uniform"`` bins; ``"mu-law"``: finer near zero; ``"quantile"``: equally likely ones, of normal values until
            :meth:`fit` has seen others.
        mu: Of the mu-law.

    Shape:
        ``x [B, C, N]`` of any scale, NaN where missing; tokens ``[B, C * N, 1]``, channel by channel. ``side["scale"]``
        ``[B, C * W]``, and ``side["location"]`` where standardised, W windows per channel.

    Raises:
        ValueError: For limits or sizes that leave no bins.
    """

    size_dims = 2
    allows_missing = True

    def __init__(
        self,
        vocabulary_size: int = 4096,
        special_tokens: int = 2,
        low: float = -15.0,
        high: float = 15.0,
        scaling: Scaling = "mean",
        window: int | None = None,
        spacing: Spacing = "uniform",
        mu: float = 255.0,
    ) -> None:
        super().__init__()
        bins = vocabulary_size - special_tokens - 1
        if bins < 2 or special_tokens < 1 or not low < high or (window is not None and window < 1) or mu <= 0:
            raise ValueError(
                "expected at least 2 bins beside at least 1 special token, low < high, window >= 1 and mu > 0, got "
                f"vocabulary_size {vocabulary_size}, special_tokens {special_tokens}, low {low}, high {high}, "
                f"window {window}, mu {mu}"
            )
        if scaling not in ("mean", "standard") or spacing not in ("uniform", "mu-law", "quantile"):
            raise ValueError(
                f"scaling must be 'mean' or 'standard', spacing 'uniform', 'mu-law' or 'quantile', got {scaling!r}, {spacing!r}"
            )
        self.first, self.scaling, self.window, self.spacing = special_tokens + 1, scaling, window, spacing
        centers, edges = _bins(spacing, bins, low, high, mu)
        learned = spacing == "quantile"  # the others follow from the configuration
        self.register_buffer("centers", centers, persistent=learned)
        self.register_buffer("edges", edges, persistent=learned)
        self.spec = TokenSpec(
            modality="timeseries", codebook_sizes=(vocabulary_size,), axes=("channel", "time"), hop=(1, 1), channels=0
        )

    centers: Tensor
    edges: Tensor

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> CodecOutput:
        raise NotImplementedError("ChronosBins has nothing to train by gradients: quantile bins are fitted with fit()")

    def quantize(self, y: Tensor) -> Tensor:
        """Ids, int64 of any shape, of scaled values: the number of edges at or below each, plus the first bin's id.

        A value on an edge belongs to the bin above; NaN becomes :data:`PAD`.
        """
        flat = y.float().contiguous().view(-1)
        ids = torch.empty(flat.shape, dtype=torch.long, device=y.device)
        binned = self._uniform if self.spacing == "uniform" else self._searched
        for values, target in zip(flat.split(_CHUNK), ids.split(_CHUNK), strict=True):
            binned(values, target)
        missing = torch.isnan(flat)
        return (ids.masked_fill_(missing, PAD) if missing.any() else ids).view(y.shape)

    def values(self, ids: Tensor) -> Tensor:
        """Bin centres of ids of any shape; special ids get the lowest bin's, as published."""
        low = self.centers[:1].expand(self.first)
        return torch.cat([low, self.centers])[ids]

    @torch.no_grad()
    def fit(self, x: Tensor) -> None:
        """Learn quantile bins: equally many of the scaled values of ``x [B, C, N]`` in each, their medians as centres.

        Raises:
            ValueError: If the spacing is not ``"quantile"``, or there are fewer values than bins.
        """
        if self.spacing != "quantile":
            raise ValueError(f"only spacing 'quantile' is learned, got {self.spacing!r}")
        y = self._scaled(x.float())[0]
        values, bins = y[~torch.isnan(y)].double().sort().values, len(self.centers)
        if len(values) < bins:
            raise ValueError(f"{bins} quantile bins need at least as many values, got {len(values)}")
        at = torch.arange(1, 2 * bins, device=x.device) / (2 * bins) * (len(values) - 1)  # medians and edges in turns
        low, share = at.long(), at.frac()
        quantiles = torch.lerp(values[low], values[(low + 1).clamp(max=len(values) - 1)], share.double()).float()
        self.centers.copy_(quantiles[0::2])
        self.edges.copy_(quantiles[1::2])

    def _encode(self, x: Tensor, lengths: Tensor) -> Tokens:
        y, side = self._scaled(x)
        ids = self.quantize(y)[..., : x.shape[-1]]
        if self.spacing != "quantile":  # whose outermost bins are as full as the others
            _warn(self, y, ids)
        shapes = torch.tensor(x.shape[1:]).expand(len(x), -1)
        return Tokens(rearrange(ids, "b c n -> b (c n) 1"), self.spec, shapes, side)

    def _decode(self, tokens: Tokens) -> Tensor:
        channels, steps = tokens.shapes[0].tolist()
        y = rearrange(self.values(tokens.ids), "b (c n) 1 -> b c n", c=channels, n=steps)
        windows = in_windows(y, self.window)
        scale = tokens.side.get("scale")
        if scale is not None:
            windows.mul_(_per_window(scale, windows))  # in place: the values are this call's own
        if "location" in tokens.side:
            windows.add_(_per_window(tokens.side["location"], windows))
        return rearrange(windows, "b c w n -> b c (w n)")[..., :steps]

    def _scaled(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Scaled signal ``[B, C, >= N]`` and what undoes the scaling."""
        windows = in_windows(x, self.window)
        if self.scaling == "mean":
            scale = mean_scale(windows)
            y, side = windows / scale[..., None], {"scale": scale.flatten(1)}
        else:
            location, scale = standard_scale(windows)
            y = (windows - location[..., None]) / scale[..., None]
            side = {"scale": scale.flatten(1), "location": location.flatten(1)}
        return rearrange(y, "b c w n -> b c (w n)"), side

    def _uniform(self, values: Tensor, ids: Tensor) -> None:
        """Bins by arithmetic; only values so near an edge that rounding could decide are searched for."""
        bins = len(self.centers)
        step = (self.centers[-1] - self.centers[0]) / (bins - 1)
        place = ((values - self.edges[0]) / step).add_(1)  # whole at edges: 1 at the lowest
        ids.copy_(place.clamp(0, bins - 1).nan_to_num_(0.0)).add_(self.first)
        near = ((place - place.round()).abs_() < 0.01).nonzero()[:, 0]
        if len(near):
            ids[near] = torch.bucketize(values[near], self.edges, right=True) + self.first

    def _searched(self, values: Tensor, ids: Tensor) -> None:
        torch.bucketize(values, self.edges, right=True, out=ids)
        ids.add_(self.first)


def clip_rate(tokens: Tokens, special_tokens: int = 2) -> Tensor:
    """Share of each item's values that lie in the lowest or highest bin, where their size is lost; float64 ``[B]``.

    Args:
        tokens: Of :class:`ChronosBins`.
        special_tokens: Of the codec.
    """
    ids, mask = tokens.ids[..., 0], tokens.mask
    present = mask & (ids > special_tokens)
    outermost = (ids == special_tokens + 1) | (ids == tokens.spec.codebook_sizes[0] - 1)
    return (outermost & present).sum(-1).double() / present.sum(-1).clamp(min=1)


def _bins(spacing: Spacing, bins: int, low: float, high: float, mu: float) -> tuple[Tensor, Tensor]:
    """Centres ``[bins]`` and the edges between them ``[bins - 1]``."""
    if spacing == "quantile":
        quantiles = torch.special.ndtri(torch.arange(1, 2 * bins, dtype=torch.float64) / (2 * bins)).float()
        return quantiles[0::2].contiguous(), quantiles[1::2].contiguous()
    centers = torch.linspace(low, high, bins)
    if spacing == "mu-law":
        middle, half = (high + low) / 2, (high - low) / 2
        companded = torch.linspace(-1, 1, bins, dtype=torch.float64)
        expanded = companded.sign() * ((1 + mu) ** companded.abs() - 1) / mu
        centers = (middle + half * expanded).float()
    return centers, (centers[1:] + centers[:-1]) / 2


def _per_window(side: Tensor, windows: Tensor) -> Tensor:
    channels, count = windows.shape[1:3]
    return rearrange(side[:, : channels * count], "b (c w) -> b c w 1", c=channels, w=count)


def _warn(codec: ChronosBins, y: Tensor, ids: Tensor) -> None:
    """Say so where many values are clipped, or a series that varies falls into one or two bins."""
    low, high = torch.aminmax(y, dim=-1)
    if bool(low.isnan().any()):
        low, high = y.nan_to_num(nan=torch.inf).amin(dim=-1), y.nan_to_num(nan=-torch.inf).amax(dim=-1)
    clipped = torch.tensor(0.0)
    if bool((low < codec.edges[0]).any()) or bool((high >= codec.edges[-1]).any()):
        outermost = (ids == codec.first) | (ids == codec.first + len(codec.centers) - 1)
        clipped = (outermost & (ids >= codec.first)).double().mean()
    narrow = (low < high) & (high - low < 2 * (codec.centers[-1] - codec.centers[0]) / len(codec.centers))
    if bool(narrow.any()):
        enough = (~torch.isnan(y)).sum(dim=-1) >= _WARN_FROM
        narrow = narrow & enough & (ids.amax(dim=-1) - ids.amin(dim=-1) <= 1)
    hint = "" if codec.scaling == "standard" else "; scaling='standard' keeps series far from zero apart"
    if clipped > _WARN_CLIPPED:
        warnings.warn(f"{clipped:.1%} of the values are clipped to the outermost bins{hint}", stacklevel=2)
    elif bool(narrow.any()):
        warnings.warn(
            f"{int(narrow.sum())} of {narrow.numel()} series vary by less than two bins, so that nothing of their shape is kept "
            f"(clip rate {clipped:.1%}){hint}",
            stacklevel=2,
        )
