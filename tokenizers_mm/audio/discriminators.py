"""Waveform discriminators that train WavTokenizer: periods, STFT resolutions, and DAC's composite with frequency bands.

Periods: Kong et al., "HiFi-GAN" (2020). Resolutions: Jang et al., "UnivNet" (2021). Conditioning: Siuzdak, "Vocos"
(2023). Composite: Kumar et al., "High-Fidelity Audio Compression with Improved RVQGAN" (2023). Layers and sizes are
those that WavTokenizer was trained with; signals shorter than a window are extended with zeros where others fail.
Each maps ``x [B, 1, N]`` in [-1, 1] and an optional ``condition`` to one output per sub-discriminator.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from tokenizers_mm.nn.adversarial import DiscriminatorOutput
from tokenizers_mm.nn.conv import pad1d

SLOPE = 0.1
PEAK_FLOOR = 1e-4
"""Quietest peak that the composite normalises: the original's 1e-9 lets gradients explode on silence."""


class PeriodDiscriminator(nn.Module):
    """Strided convolutions over the signal folded into ``period`` columns.

    Args:
        period: Samples per row.
        channels: Widths of the convolutions; all but the last stride by 3.
        num_embeddings: Size of the condition vocabulary, 0 for no conditioning.
        always_pad: Pad a whole period where the length is already a multiple of it, as DAC does.
    """

    def __init__(
        self, period: int, channels: tuple[int, ...], num_embeddings: int = 0, *, always_pad: bool = False
    ) -> None:
        super().__init__()
        self.period, self.always_pad = period, always_pad
        self.convs = nn.ModuleList(
            weight_norm(nn.Conv2d(c_in, c_out, (5, 1), (stride, 1), (2, 0)))
            for c_in, c_out, stride in zip((1, *channels), channels, [3] * (len(channels) - 1) + [1], strict=False)
        )
        self.conv_post = weight_norm(nn.Conv2d(channels[-1], 1, (3, 1), padding=(1, 0)))
        self.projection = ConditionProjection(num_embeddings, channels[-1]) if num_embeddings else None

    def forward(self, x: Tensor, condition: Tensor | None = None) -> DiscriminatorOutput:
        """Logits ``[B, 1, ~N / 81 / period, period]`` and the map of every convolution before them."""
        missing = -x.shape[-1] % self.period
        if self.always_pad and missing == 0:
            missing = self.period
        maps = _maps(self.convs, rearrange(pad1d(x, 0, missing, "reflect"), "b c (t p) -> b c t p", p=self.period))
        return DiscriminatorOutput(_logits(self.conv_post, self.projection, maps[-1], condition), maps)


class MultiPeriodDiscriminator(nn.Module):
    """HiFi-GAN's discriminator, optionally conditional; features are the maps from the second on, and the logits.

    Args:
        periods: One sub-discriminator per period.
        num_embeddings: Size of the condition vocabulary, 0 for no conditioning.
        channels: Widths of the convolutions; the published ones make 41 million parameters.

    Raises:
        ValueError: If a period, a width or their number is not positive.
    """

    def __init__(
        self,
        periods: tuple[int, ...] = (2, 3, 5, 7, 11),
        num_embeddings: int = 0,
        channels: tuple[int, ...] = (32, 128, 512, 1024, 1024),
    ) -> None:
        super().__init__()
        _check_positive("periods", periods)
        _check_positive("channels", channels)
        self.discriminators = nn.ModuleList(PeriodDiscriminator(p, tuple(channels), num_embeddings) for p in periods)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> list[DiscriminatorOutput]:
        _check_mono(x)
        outputs = [discriminator(x, condition) for discriminator in self.discriminators]
        return [DiscriminatorOutput(logits, [*maps[1:], logits]) for logits, maps in outputs]


class ResolutionDiscriminator(nn.Module):
    """Convolutions over the magnitude of one STFT (rectangular window).

    Args:
        n_fft: Transform length.
        hop_length: Samples between frames.
        win_length: Window length.
        channels: Width of the convolutions.
        num_embeddings: Size of the condition vocabulary, 0 for no conditioning.
    """

    LAYERS = (((7, 5), (2, 2)), ((5, 3), (2, 1)), ((5, 3), (2, 2)), ((3, 3), (2, 1)), ((3, 3), (2, 2)))
    """Kernel and stride of each convolution over (frequency, time)."""

    def __init__(self, n_fft: int, hop_length: int, win_length: int, channels: int, num_embeddings: int = 0) -> None:
        super().__init__()
        self.n_fft, self.hop_length, self.win_length = n_fft, hop_length, win_length
        self.convs = nn.ModuleList(
            _conv(1 if i == 0 else channels, channels, kernel, stride) for i, (kernel, stride) in enumerate(self.LAYERS)
        )
        self.conv_post = _conv(channels, 1, (3, 3), (1, 1))
        self.projection = ConditionProjection(num_embeddings, channels) if num_embeddings else None

    def forward(self, x: Tensor, condition: Tensor | None = None) -> DiscriminatorOutput:
        """Logits ``[B, 1, ~F / 32, ~frames / 8]`` and the map of every convolution before them."""
        spectrum = _stft(x, self.n_fft, self.hop_length, self.win_length).abs().to(x.dtype)
        maps = _maps(self.convs, spectrum[:, None])
        return DiscriminatorOutput(_logits(self.conv_post, self.projection, maps[-1], condition), maps)


class MultiResolutionDiscriminator(nn.Module):
    """UnivNet's discriminator as Vocos has it, optionally conditional; features are all maps and the logits.

    Args:
        resolutions: ``(n_fft, hop_length, win_length)`` of each sub-discriminator.
        num_embeddings: Size of the condition vocabulary, 0 for no conditioning.
        channels: Width of the convolutions.

    Raises:
        ValueError: If a resolution is not ``0 < hop_length <= win_length <= n_fft``, or ``channels`` is not positive.
    """

    def __init__(
        self,
        resolutions: tuple[tuple[int, int, int], ...] = ((1024, 256, 1024), (2048, 512, 2048), (512, 128, 512)),
        num_embeddings: int = 0,
        channels: int = 64,
    ) -> None:
        super().__init__()
        _check_positive("channels", (channels,))
        for n_fft, hop_length, win_length in resolutions:
            if not (0 < hop_length <= win_length <= n_fft):
                raise ValueError(
                    "each of resolutions must be (n_fft, hop_length, win_length) "
                    f"with 0 < hop_length <= win_length <= n_fft, got {(n_fft, hop_length, win_length)}"
                )
        self.discriminators = nn.ModuleList(
            ResolutionDiscriminator(*resolution, channels, num_embeddings) for resolution in resolutions
        )

    def forward(self, x: Tensor, condition: Tensor | None = None) -> list[DiscriminatorOutput]:
        _check_mono(x)
        outputs = [discriminator(x, condition) for discriminator in self.discriminators]
        return [DiscriminatorOutput(logits, [*maps, logits]) for logits, maps in outputs]


class BandDiscriminator(nn.Module):
    """Separate convolutions over each frequency band of one complex STFT (rectangular window, hop a quarter of it).

    Args:
        window: Window and transform length.
        bands: Edges of each band as fractions of the ``window // 2 + 1`` bins, rounded down.
        channels: Width of the convolutions.
    """

    LAYERS = (((3, 9), (1, 1)), ((3, 9), (1, 2)), ((3, 9), (1, 2)), ((3, 9), (1, 2)), ((3, 3), (1, 1)))
    """Kernel and stride of each convolution over (time, frequency)."""

    def __init__(self, window: int, bands: tuple[tuple[float, float], ...], channels: int) -> None:
        super().__init__()
        bins = window // 2 + 1
        self.window = window
        self.bands = [(int(low * bins), int(high * bins)) for low, high in bands]
        if any(not 0 <= low < high <= bins for low, high in self.bands):
            raise ValueError(f"each band must hold at least one of the {bins} bins of window {window}, got {bands}")
        self.convs = nn.ModuleList(
            nn.ModuleList(_conv(2 if i == 0 else channels, channels, k, s) for i, (k, s) in enumerate(self.LAYERS))
            for _ in bands
        )
        self.conv_post = _conv(channels, 1, (3, 3), (1, 1))

    def forward(self, x: Tensor) -> DiscriminatorOutput:
        """Logits ``[B, 1, frames, ~F / 8]`` and the maps of every band's convolutions."""
        spectrum = torch.view_as_real(_stft(x, self.window, self.window // 4, self.window)).to(x.dtype)
        image = rearrange(spectrum, "b f t c -> b c t f")
        maps = [_maps(convs.children(), image[..., a:b]) for convs, (a, b) in zip(self.convs, self.bands, strict=True)]
        logits = self.conv_post(torch.cat([band[-1] for band in maps], dim=-1))
        return DiscriminatorOutput(logits, [m for band in maps for m in band])


class MultiBandSTFTDiscriminator(nn.Module):
    """DAC's complex multi-band STFT discriminator; features are all maps but the logits.

    Args:
        windows: Window length of each sub-discriminator.
        bands: Edges of each band as fractions of the spectrum.
        channels: Width of the convolutions.

    Raises:
        ValueError: If a window or ``channels`` is not positive, or a band holds no bin of a window.
    """

    def __init__(
        self,
        windows: tuple[int, ...] = (2048, 1024, 512),
        bands: tuple[tuple[float, float], ...] = ((0.0, 0.1), (0.1, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 1.0)),
        channels: int = 32,
    ) -> None:
        super().__init__()
        _check_positive("windows", windows)
        _check_positive("channels", (channels,))
        self.discriminators = nn.ModuleList(BandDiscriminator(w, bands, channels) for w in windows)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> list[DiscriminatorOutput]:
        _check_mono(x)
        return [discriminator(x) for discriminator in self.discriminators]


class DACDiscriminator(nn.Module):
    """DAC's composite of periods and frequency bands over the signal without DC and at a peak of 0.8, unconditional.

    Features are all maps but the logits.

    Args:
        periods: Periods of the period discriminators.
        period_channels: Widths of their convolutions.
        windows: Window lengths of the multi-band discriminators.
        bands: Edges of each band as fractions of the spectrum.
        band_channels: Width of their convolutions.

    Raises:
        ValueError: If a size is not positive, or a band holds no bin of a window.
    """

    def __init__(
        self,
        periods: tuple[int, ...] = (2, 3, 5, 7, 11),
        period_channels: tuple[int, ...] = (32, 128, 512, 1024, 1024),
        windows: tuple[int, ...] = (2048, 1024, 512),
        bands: tuple[tuple[float, float], ...] = ((0.0, 0.1), (0.1, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 1.0)),
        band_channels: int = 32,
    ) -> None:
        super().__init__()
        _check_positive("periods", periods)
        _check_positive("period_channels", period_channels)
        self.periods = nn.ModuleList(PeriodDiscriminator(p, tuple(period_channels), always_pad=True) for p in periods)
        self.bands = MultiBandSTFTDiscriminator(windows, bands, band_channels)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> list[DiscriminatorOutput]:
        _check_mono(x)
        x = x - x.mean(dim=-1, keepdim=True)
        x = 0.8 * x / x.abs().amax(dim=-1, keepdim=True).clamp(min=PEAK_FLOOR)
        return [discriminator(x) for discriminator in self.periods] + self.bands(x)


class ConditionProjection(nn.Module):
    """The conditional part of the logits: each position's features times a learned vector per condition, zero at first.

    Args:
        num_embeddings: Size of the condition vocabulary.
        channels: Features per position.
    """

    def __init__(self, num_embeddings: int, channels: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(num_embeddings, channels)
        nn.init.zeros_(self.embedding.weight)

    def forward(self, features: Tensor, condition: Tensor | None) -> Tensor:
        """Logits to add.

        Args:
            features: ``[B, C, H, W]``.
            condition: Ids, int ``[B]`` or ``[1]``; None is id 0, the default of codecs.

        Returns:
            ``[B, 1, H, W]``.

        Raises:
            ValueError: If ``condition`` has another shape.
        """
        if condition is None:
            condition = torch.zeros(1, dtype=torch.long, device=features.device)
        if condition.shape not in ((1,), (len(features),)):
            raise ValueError(f"condition must be [1] or [{len(features)}], got {list(condition.shape)}")
        vector = rearrange(self.embedding(condition), "b c -> b c 1 1")
        return (vector * features).sum(dim=1, keepdim=True)


def _conv(c_in: int, c_out: int, kernel: tuple[int, int], stride: tuple[int, int]) -> nn.Module:
    return weight_norm(nn.Conv2d(c_in, c_out, kernel, stride, padding=(kernel[0] // 2, kernel[1] // 2)))


def _maps(convs: Iterable[nn.Module], x: Tensor) -> list[Tensor]:
    """What each convolution of a chain puts out, after its LeakyReLU."""
    maps = []
    for conv in convs:
        x = F.leaky_relu(conv(x), SLOPE, inplace=True)
        maps.append(x)
    return maps


def _logits(conv_post: nn.Module, projection: nn.Module | None, features: Tensor, condition: Tensor | None) -> Tensor:
    logits = conv_post(features)
    return logits if projection is None else logits + projection(features, condition)


def _stft(x: Tensor, n_fft: int, hop_length: int, win_length: int) -> Tensor:
    """Complex ``[B, F, frames]`` of ``x [B, 1, N]``: rectangular window, frames centred on multiples of the hop."""
    with torch.autocast(x.device.type, enabled=False):  # complex numbers have no half precision
        padded = pad1d(x.float(), n_fft // 2, n_fft // 2, "reflect")[:, 0]
        window = padded.new_ones(win_length)
        return torch.stft(padded, n_fft, hop_length, win_length, window, center=False, return_complex=True)


def _check_mono(x: Tensor) -> None:
    if x.ndim != 3 or x.shape[1] != 1 or x.shape[2] == 0:
        raise ValueError(f"x must be mono audio [B, 1, N], got {list(x.shape)}")


def _check_positive(name: str, values: tuple[int, ...]) -> None:
    if not values or any(v < 1 for v in values):
        raise ValueError(f"{name} must be positive numbers, got {values}")
