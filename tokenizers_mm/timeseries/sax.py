"""SAX: z-normalised segment means to symbols that are equally likely under a normal distribution.

Lin, Keogh, Wei and Lonardi, "Experiencing SAX: a novel symbolic representation of time series", 2007. Segments may be fractional
(each sample counts for the segments that it overlaps, by its share). Decoding is ours: the mean of the normal distribution
within a symbol's interval.
"""

from __future__ import annotations

import math

import torch
from einops import rearrange
from torch import Tensor

from tokenizers_mm.codec import Codec, CodecOutput
from tokenizers_mm.timeseries.scaling import standard_scale
from tokenizers_mm.tokens import Tokens, TokenSpec


def breakpoints(alphabet_size: int) -> Tensor:
    """The normal quantiles at ``i / alphabet_size``, float64 ``[alphabet_size - 1]``."""
    return torch.special.ndtri(torch.arange(1, alphabet_size, dtype=torch.float64) / alphabet_size)


def segment_means(x: Tensor, segments: int) -> Tensor:
    """Piecewise aggregate approximation: means of observed samples in equal segments, ``[..., N] -> [..., segments]``.

    Where N is no multiple of ``segments``, a sample on a border counts for both sides by its share. NaN where a segment has
    nothing observed.
    """
    n = x.shape[-1]
    missing = torch.isnan(x)
    sums = _overlapping(x.masked_fill(missing, 0), segments)
    weights = _overlapping((~missing).to(x.dtype), segments) if missing.any() else sums.new_full((), n / segments)
    means = sums / weights
    return means.masked_fill(weights < 1e-6, float("nan")) if missing.any() else means


def _overlapping(x: Tensor, segments: int) -> Tensor:
    """Sums over equal segments of the line on which each sample is one unit long."""
    n = x.shape[-1]
    if n % segments == 0:
        return x.unflatten(-1, (segments, n // segments)).sum(dim=-1)
    total = torch.nn.functional.pad(x.double().cumsum(dim=-1), (1, 0))  # integral up to each whole place
    places = torch.arange(segments + 1, device=x.device, dtype=torch.float64) * (n / segments)
    low = places.floor().long().clamp(max=n - 1)
    integral = torch.lerp(total[..., low], total[..., low + 1], places - low)
    return integral.diff(dim=-1).to(x.dtype)


class SAX(Codec):
    """Series to one symbol per segment; by default of eight samples and four symbols.

    Args:
        alphabet_size: Symbols.
        segment: Samples per segment; a series of N samples has ``ceil(N / segment)`` equal ones, fractional if need be.

    Shape:
        ``x [B, C, N]`` of any scale, NaN where missing; tokens ``[B, C * ceil(N / segment), 1]``, channel by channel;
        ``side["mean"]`` and ``side["deviation"]`` ``[B, C]``.
    """

    size_dims = 2
    allows_missing = True

    def __init__(self, alphabet_size: int = 4, segment: int = 8) -> None:
        super().__init__()
        if alphabet_size < 2 or segment < 1:
            raise ValueError(f"alphabet_size must be at least 2 and segment 1, got {alphabet_size} and {segment}")
        points = breakpoints(alphabet_size)
        ends = torch.full((1,), torch.inf, dtype=torch.float64)
        density = (torch.cat([-ends, points, ends]).square() / -2).exp() / math.sqrt(2 * math.pi)
        self.register_buffer("breakpoints", points.float(), persistent=False)
        self.register_buffer("levels", (-density.diff() * alphabet_size).float(), persistent=False)
        self.segment = segment
        self.spec = TokenSpec(
            modality="timeseries",
            codebook_sizes=(alphabet_size,),
            axes=("channel", "time"),
            hop=(1, segment),
            channels=0,
        )

    breakpoints: Tensor
    levels: Tensor

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> CodecOutput:
        raise NotImplementedError("SAX has nothing to train")

    def mindist(self, a: Tokens, b: Tokens) -> Tensor:
        """Lower bound of the Euclidean distances of z-normalised series, per item and channel: ``[B, C]``.

        Args:
            a: Tokens of this codec, all of one grid.
            b: As many, of series of the same length.

        Raises:
            ValueError: If their grids or lengths differ.
        """
        if not torch.equal(a.shapes, b.shapes) or not torch.equal(a.side["size"], b.side["size"]):
            raise ValueError(
                f"series must be of one length, got {a.side['size'].tolist()} and {b.side['size'].tolist()}"
            )
        channels, segments = a.shapes[0].tolist()
        low, high = torch.minimum(a.ids, b.ids)[..., 0], torch.maximum(a.ids, b.ids)[..., 0]
        nearer = self.breakpoints[(high - 1).clamp(min=0)] - self.breakpoints[low.clamp(max=len(self.breakpoints) - 1)]
        gaps = torch.where(high - low <= 1, 0, nearer)
        per_segment = a.side["size"][:, -1:] / segments
        return (rearrange(gaps, "b (c t) -> b c t", c=channels).square().sum(-1) * per_segment).sqrt()

    def _encode(self, x: Tensor, lengths: Tensor) -> Tokens:
        mean, deviation = standard_scale(x)
        y = (x - mean[..., None]) / deviation[..., None]
        means = segment_means(y, -(-x.shape[-1] // self.segment))
        ids = torch.bucketize(means.nan_to_num(nan=0.0), self.breakpoints, right=True)
        shapes = torch.tensor(ids.shape[1:]).expand(len(x), -1)
        constant = (y.nan_to_num(nan=0.0) == 0).all(dim=-1)  # decoded as exactly that
        side = {"mean": mean, "deviation": deviation.masked_fill(constant, 0)}
        return Tokens(rearrange(ids, "b c t -> b (c t) 1"), self.spec, shapes, side)

    def _decode(self, tokens: Tokens) -> Tensor:
        channels, segments = tokens.shapes[0].tolist()
        y = rearrange(self.levels[tokens.ids], "b (c t) 1 -> b c t", c=channels)
        if "mean" in tokens.side:
            y = y * tokens.side["deviation"][:, :channels, None] + tokens.side["mean"][:, :channels, None]
        sizes = tokens.side.get("size")
        longest = int(sizes[:, -1].max()) if sizes is not None else segments * self.segment
        out = y.new_zeros(*y.shape[:2], longest)
        for row, target, n in zip(
            y, out, sizes[:, -1].tolist() if sizes is not None else [longest] * len(y), strict=True
        ):
            middles = (torch.arange(n, device=y.device) + 0.5) * (
                segments / n
            )  # the segment that holds a sample's middle
            target[..., :n] = row[..., middles.long().clamp(max=segments - 1)]
        return out
