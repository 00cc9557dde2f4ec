"""TFM-Tokenizer: each EEG channel to one token every half second, by its spectrum and its samples.

Pradeepkumar et al., "Tokenizing Single-Channel EEG with Time-Frequency Motif Learning", ICLR 2026. Ours differs in training: the
commitment reaches the encoder (the published loss cancels itself), the codebook starts from k-means and dead codes are revived.
Decoding goes on to a waveform by phase retrieval, which the published system leaves at the spectrum. Recordings longer than a
window are encoded window by window, all channels together.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from tokenizers_mm.codec import CodecOutput
from tokenizers_mm.eeg.segments import SegmentedCodec
from tokenizers_mm.eeg.tfm_layers import FrequencyPath, TimePath, frames_and_spectra, robust_scale
from tokenizers_mm.nn.linear_attention import LinearAttentionTransformer
from tokenizers_mm.nn.onednn import Linear
from tokenizers_mm.nn.phase_retrieval import griffin_lim, with_phase
from tokenizers_mm.quantizers import build_quantizer, usage
from tokenizers_mm.tokens import TokenSpec


class TFMTokenizer(SegmentedCodec):
    """EEG of any montage to one token per channel and half second; by default the published 2x2x8 network with 8192 codes.

    A step sees a window of one second, so a signal's last half second has no step of its own: 5 s are 9 tokens, 10 s are 19.

    Args:
        sample_rate: Hz; windows of a second and hops of half of one follow. Half of it must divide by ``patch_size`` squared.
        window_seconds: Longer recordings are encoded in windows of this length, a whole number of half seconds. The published
            networks were trained on 5, 10 or 30.
        quantizer: Mapping for :func:`~tokenizers_mm.quantizers.build_quantizer`.
        dim: Width of features and codes.
        heads: Heads of every transformer.
        frequency_layers: Layers over the frequency patches of a step.
        time_layers: Layers over the steps of a window.
        decoder_layers: Layers from codes to spectra.
        patch_size: Bins of a frequency patch, and patches of a group.
        dropout: Behind each attention, in training.
        mask_ratio: Share of frequency patches, and of steps, that a training view hides; 0 trains on the whole spectrum.
        reference_vq_loss: The published quantizer loss, whose terms cancel in the encoder's gradient, not a commitment.
        phase_iterations: Of the phase retrieval in ``decode``.

    Shape:
        ``x [B, C, N]`` in microvolts; tokens on a grid ``(C, T)`` with ``side["scale"]`` ``[B, W * C]``, the 95 % quantile of the
        absolute values of each window and channel.
    """

    own_losses = ("spectrum", "complement")

    def __init__(
        self,
        sample_rate: int = 200,
        window_seconds: float = 10.0,
        quantizer: Mapping[str, Any] | None = None,
        dim: int = 64,
        heads: int = 8,
        frequency_layers: int = 2,
        time_layers: int = 2,
        decoder_layers: int = 8,
        patch_size: int = 5,
        dropout: float = 0.2,
        mask_ratio: float = 0.5,
        reference_vq_loss: bool = False,
        phase_iterations: int = 50,
    ) -> None:
        super().__init__()
        self.frequency = FrequencyPath(sample_rate, dim, frequency_layers, heads, patch_size, dropout)
        self.n_fft, self.hop_length = sample_rate, sample_rate // 2
        self.window = round(window_seconds * sample_rate)
        if self.window < self.n_fft or self.window % self.hop_length:
            raise ValueError(f"window_seconds must be whole half seconds, at least 1, got {window_seconds}")
        if not 0 <= mask_ratio < 1:
            raise ValueError(f"mask_ratio must be in [0, 1), got {mask_ratio}")
        self.patch_size, self.mask_ratio = patch_size, mask_ratio
        self.reference_vq_loss, self.phase_iterations = reference_vq_loss, phase_iterations
        self.time = TimePath(self.n_fft, dim)
        self.encoder = LinearAttentionTransformer(dim, time_layers, heads, dropout=dropout)
        self.quantizer = build_quantizer(dim, **(quantizer or {"kind": "vq", "codebook_size": 8192}))
        self.decoder = LinearAttentionTransformer(dim, decoder_layers, heads, dropout=dropout)
        self.head = nn.Sequential(Linear(dim, dim), nn.Tanh(), Linear(dim, self.hop_length))
        self.spec = TokenSpec(
            modality="eeg",
            codebook_sizes=self.quantizer.codebook_sizes,
            axes=("channel", "time"),
            hop=(1, self.hop_length),
            sample_rate=sample_rate,
            channels=0,
            scalable="columns" if self.quantizer.scalable else "none",
            overlap=self.n_fft - self.hop_length,
        )

    # -- training ----------------------------------------------------------------------------------------------------------

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> CodecOutput:
        """Reconstruction of a crop as one window.

        In training mode the network sees two complementary views of each spectrum, and its own losses compare what it makes of
        either with the whole. The waveform returned has the phases of the input: they are not modelled, and retrieving them
        has no use in training.
        """
        signal = rearrange(x, "b c n -> (b c) n")
        scale = robust_scale(signal)
        frames, spectra = frames_and_spectra(signal / scale, self.n_fft, self.hop_length)
        magnitude = spectra.abs()[..., :-1]
        hidden: list[Tensor | None] = [None]
        if self.training and self.mask_ratio:
            keep = time_frequency_mask(*magnitude.shape[1:], patch_size=self.patch_size, ratio=self.mask_ratio)
            hidden = [keep.to(x), 1 - keep.to(x)]
        terms, penalties, ids = [], [], None
        for view in hidden:
            z = self._features(frames, magnitude if view is None else magnitude * view)
            quantized = self.quantizer(z)
            estimate = self._spectrum(quantized.features)
            terms.append(F.mse_loss(estimate, magnitude))
            penalties.append(published_vq_loss(z, quantized.features) if self.reference_vq_loss else quantized.loss)
            ids = quantized.ids if ids is None else ids
        assert ids is not None
        wave = with_phase(F.pad(estimate, (0, 1)), spectra.angle(), self.hop_length) * scale
        wave = F.pad(wave, (0, max(0, x.shape[-1] - wave.shape[-1])))[:, : x.shape[-1]]
        grid = rearrange(ids, "(b c) t q -> b (c t) q", b=len(x))
        return CodecOutput(
            rearrange(wave, "(b c) n -> b c n", b=len(x)),
            grid,
            torch.stack(penalties).sum(),
            usage(grid, self.spec.codebook_sizes),
            dict(zip(self.own_losses, (terms * 2)[:2], strict=True)),
        )

    # -- inference ---------------------------------------------------------------------------------------------------------

    def magnitudes(self, ids: Tensor) -> Tensor:
        """The network's own output: STFT magnitudes ``[M, T, F]``, in units of the scale, of ids ``[M, T, Q]`` of windows."""
        return self._spectrum(self.quantizer.decode(ids))

    def _encode_windows(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        signal = rearrange(x, "m c n -> (m c) n")
        scale = robust_scale(signal)
        frames, spectra = frames_and_spectra(signal / scale, self.n_fft, self.hop_length)
        ids = self.quantizer(self._features(frames, spectra.abs()[..., :-1])).ids[..., : self.spec.num_codebooks]
        return rearrange(ids, "(m c) t q -> m c t q", m=len(x)), {"scale": scale.reshape(len(x), -1)}

    def _decode_windows(self, ids: Tensor, side: Mapping[str, Tensor]) -> Tensor:
        if "scale" not in side:
            raise ValueError("tokens need side['scale'], the quantile of each window and channel, got none")
        magnitude = self.magnitudes(rearrange(ids, "m c t q -> (m c) t q")).clamp(min=0)
        wave = griffin_lim(F.pad(magnitude, (0, 1)), self.hop_length, iterations=self.phase_iterations)
        return rearrange(wave, "(m c) n -> m c n", m=len(ids)) * side["scale"][..., None]

    def _side_width(self, name: str, channels: int) -> int:
        return channels

    def _features(self, frames: Tensor, magnitude: Tensor) -> Tensor:
        """What is quantized, unit vectors ``[M, T, dim]``."""
        mixed = self.encoder(torch.cat([self.frequency(magnitude), self.time(frames)], dim=-1))
        return F.normalize(mixed, dim=-1)

    def _spectrum(self, codes: Tensor) -> Tensor:
        return self.head(self.decoder(codes))


def time_frequency_mask(
    steps: int, bins: int, *, patch_size: int = 5, ratio: float = 0.5, generator: torch.Generator | None = None
) -> Tensor:
    """What a training view keeps, bool ``[steps, bins]``: cells whose frequency patch and step are both kept.

    Args:
        steps: T.
        bins: F, whole patches.
        patch_size: Bins that are hidden together.
        ratio: Share of patches, and of steps, that are hidden, rounded down.
        generator: Of the draw; the global one by default.
    """
    patches = bins // patch_size
    kept_bins, kept_steps = torch.ones(patches, dtype=torch.bool), torch.ones(steps, dtype=torch.bool)
    kept_bins[torch.randperm(patches, generator=generator)[: int(patches * ratio)]] = False
    kept_steps[torch.randperm(steps, generator=generator)[: int(steps * ratio)]] = False
    return kept_steps[:, None] & kept_bins.repeat_interleave(patch_size)


def published_vq_loss(z: Tensor, features: Tensor) -> Tensor:
    """The loss of the published code, on straight-through ``features``: its two terms cancel in the gradient of ``z``."""
    through = z + (features - z).detach()
    return F.mse_loss(z, through.detach()) + F.mse_loss(through, z.detach())
