"""Loudness disturbance: how much louder or softer each critical band of speech sounds than it should, as a training loss.

A differentiable model of hearing after the steps of ITU-T P.862 (PESQ): levels are aligned, spectra are warped to the Bark
scale, equalised, and turned into Zwicker loudness; differences below a masking threshold do not count, and added sound counts
more than missing sound. It follows the recommendation's structure with analytic Bark and threshold curves in place of its
tables and without its time alignment: it is a loss, not a PESQ score.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

SPEECH_LEVEL = 79.0
"""dB SPL that the reference is taken to be played at, as in P.862."""


class LoudnessDisturbanceLoss(nn.Module):
    """Weighted symmetric and asymmetric loudness disturbance, in units of opinion score lost (0 for equal signals).

    Args:
        sample_rate: Rate of the signals in Hz.
        window_seconds: Length of the Hann windows; they overlap by half.
        bands: Bands on the Bark scale up to half the sample rate.

    Shape:
        Two signals ``[B, C, N]`` of at least one window; a scalar.

    Source:
        ITU-T P.862 (2001); Zwicker and Fastl, "Psychoacoustics" (1990); Terhardt (1979) for the threshold in quiet.
    """

    window: Tensor
    member: Tensor
    threshold: Tensor
    speech: Tensor

    def __init__(self, sample_rate: int, window_seconds: float = 0.032, bands: int = 49) -> None:
        super().__init__()
        if sample_rate <= 0 or window_seconds <= 0 or bands < 2:
            raise ValueError(
                f"sample_rate, window_seconds and bands must be positive, got {sample_rate}, {window_seconds}, {bands}"
            )
        self.n_fft = 2 * round(window_seconds * sample_rate / 2)
        frequency = torch.linspace(0, sample_rate / 2, self.n_fft // 2 + 1)
        bark = 13 * torch.atan(7.6e-4 * frequency) + 3.5 * torch.atan((frequency / 7500) ** 2)
        edges = torch.linspace(float(bark[1]), float(bark[-1]), bands + 1)
        index = (torch.bucketize(bark, edges, right=True) - 1).clamp(0, bands - 1)
        member = torch.nn.functional.one_hot(index, bands).float()
        member[0] = 0  # no band holds the mean
        kept = member.sum(0) > 0  # narrow bands below the resolution of the window hold no bin
        member = member[:, kept]
        centre = (member * frequency[:, None]).sum(0) / member.sum(0) / 1000
        quiet = 3.64 * centre**-0.8 - 6.5 * torch.exp(-0.6 * (centre - 3.3) ** 2) + 1e-3 * centre**4
        self.register_buffer("window", torch.hann_window(self.n_fft), persistent=False)
        self.register_buffer("member", member, persistent=False)
        self.register_buffer("threshold", 10 ** (quiet.clamp(max=60) / 10), persistent=False)
        self.register_buffer("speech", ((frequency > 300) & (frequency < 3250)).float(), persistent=False)
        self.width = float(edges[1] - edges[0])

    def forward(self, estimate: Tensor, reference: Tensor) -> Tensor:
        if estimate.shape != reference.shape or estimate.shape[-1] < self.n_fft:
            raise ValueError(
                f"estimate and reference must be equal in shape and at least {self.n_fft} samples long, "
                f"got {list(estimate.shape)} and {list(reference.shape)}"
            )
        with torch.autocast(estimate.device.type, enabled=False):
            return self._disturbance(self._bands(estimate.float()), self._bands(reference.float()))

    def _bands(self, x: Tensor) -> Tensor:
        """Intensities re 0 dB SPL in each band, ``[B, L, F]``, at the listening level."""
        spectrum = torch.stft(
            x.flatten(0, 1), self.n_fft, self.n_fft // 2, window=self.window, center=False, return_complex=True
        )
        power = spectrum.real.square() + spectrum.imag.square()  # [B, F, L]; abs() has no gradient at 0
        level = (power * self.speech[:, None]).sum(1).mean(-1)
        power = power * (10 ** (SPEECH_LEVEL / 10) / (level + 1e-4))[:, None, None]
        return power.transpose(1, 2) @ self.member

    def _loudness(self, power: Tensor) -> Tensor:
        p0 = self.threshold
        sones = 0.187 * (p0 / 0.5) ** 0.23 * ((0.5 + 0.5 * power / p0).clamp(min=1e-3) ** 0.23 - 1)
        return sones.clamp(min=0)

    def _disturbance(self, estimate: Tensor, reference: Tensor) -> Tensor:
        audible = reference.sum(-1)
        active = (audible > 1e5)[..., None]
        frames = active.sum(1, keepdim=True).clamp(min=1)
        means = [(p * active).sum(1, keepdim=True) / frames + 1e3 for p in (estimate, reference)]
        equal = reference * (means[0] / means[1]).clamp(0.01, 100)  # the filter of a channel is partly forgiven,
        # and so are slow changes of level
        gain = ((equal.sum(-1) + 5e3) / (estimate.sum(-1) + 5e3)).clamp(3e-4, 5.0)
        smooth = torch.cat([gain[:, :1], 0.8 * gain[:, 1:] + 0.2 * gain[:, :-1]], dim=1)
        estimate = estimate * smooth[..., None]
        heard, wanted = self._loudness(estimate), self._loudness(equal)
        masked = 0.25 * torch.minimum(heard, wanted)
        difference = ((heard - wanted).abs() - masked).clamp(min=0)
        ratio = ((estimate + 50) / (equal + 50)).clamp(min=1e-6) ** 1.2
        added = torch.where(ratio < 3, 0.0, ratio.clamp(max=12))
        weight = ((audible + 1e5) / 1e7) ** 0.04
        total = difference.shape[-1] * self.width
        symmetric = (difference.square().sum(-1) * self.width * total + 1e-8).sqrt() / weight
        asymmetric = (difference * added).sum(-1) * self.width / weight
        scores = [d.clamp(max=45).square().mean(1).add(1e-8).sqrt().mean() for d in (symmetric, asymmetric)]
        return 0.1 * scores[0] + 0.0309 * scores[1]
