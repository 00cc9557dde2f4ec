"""STFT heads: a spectrum front end and its mirror, the inverse-STFT head of Vocos.

Siuzdak, "Vocos: Closing the gap between time-domain and Fourier-based neural vocoders for high-quality audio synthesis", 2023.
The inverse transform keeps exactly ``hop_length`` samples per frame ("same" padding) and also runs frame by frame.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from tokenizers_mm.nn.conv import StreamState, remember
from tokenizers_mm.nn.onednn import Linear

MAX_MAGNITUDE = 100.0


class STFTFeatures(nn.Module):
    """Log magnitude and phase (as cosine and sine) of a short-time Fourier transform, one frame per hop.

    Args:
        n_fft: Window length in samples (periodic Hann).
        hop_length: Samples between frames.
        causal: Windows end with their hop instead of being centred on it.

    Shape:
        ``[B, 1, N] -> [B, 3 * (n_fft // 2 + 1), ceil(N / hop_length)]``; N a multiple of hop with a stream state.
    """

    window: Tensor

    def __init__(self, n_fft: int, hop_length: int, *, causal: bool = False) -> None:
        super().__init__()
        if n_fft < hop_length or (n_fft - hop_length) % 2:
            raise ValueError(f"n_fft must exceed hop_length by an even number, got {n_fft} and {hop_length}")
        self.n_fft, self.hop_length, self.causal = n_fft, hop_length, causal
        self.channels = 3 * (n_fft // 2 + 1)
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)

    def forward(self, x: Tensor, state: StreamState | None = None) -> Tensor:
        context = self.n_fft - self.hop_length
        if state is not None:
            x = remember(self, x, context, state)
        else:
            left = context if self.causal else context // 2
            x = F.pad(x, (left, context - left + -x.shape[-1] % self.hop_length))
        with torch.autocast(x.device.type, enabled=False):  # complex numbers have no half precision
            frames = x[:, 0].float().unfold(-1, self.n_fft, self.hop_length) * self.window
            spectrum = torch.fft.rfft(frames, norm="forward") * 2
            magnitude = spectrum.abs()
            phase = spectrum / magnitude.clamp(min=1e-7)
            # a floor near 16-bit noise keeps silence from dominating; /4 brings the logs to about unit variance
            features = torch.cat([(magnitude.clamp(min=1e-5).log() + 7) / 4, phase.real, phase.imag], dim=-1)
        return rearrange(features, "b t f -> b f t")


class ISTFTHead(nn.Module):
    """Linear layer to log magnitude and phase, then an inverse STFT that returns exactly ``hop_length`` samples per frame.

    Args:
        dim: Features in.
        n_fft: Window length in samples (periodic Hann).
        hop_length: Samples per frame.

    Shape:
        ``[B, L, dim] -> [B, 1, L * hop_length]``.
    """

    window: Tensor

    def __init__(self, dim: int, n_fft: int, hop_length: int) -> None:
        super().__init__()
        if n_fft < hop_length or (n_fft - hop_length) % 2:
            raise ValueError(f"n_fft must exceed hop_length by an even number, got {n_fft} and {hop_length}")
        self.n_fft, self.hop_length = n_fft, hop_length
        self.out = Linear(dim, n_fft + 2)
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)

    @property
    def trim(self) -> int:
        """Samples cut at both ends, which is also how far samples lag behind frames in a stream."""
        return (self.n_fft - self.hop_length) // 2

    def forward(self, features: Tensor) -> Tensor:
        frames = self._frames(features)
        total = self._overlap_add(frames)
        envelope = self._overlap_add(self.window.square().expand(1, frames.shape[1], -1))
        cut = slice(self.trim, total.shape[-1] - self.trim)
        return (total[:, cut] / envelope[:, cut])[:, None]

    def step(self, features: Tensor, state: StreamState, *, last: bool) -> Tensor:
        """The samples ``[B, 1, n]`` that no later frame changes; with ``last``, also what overlap held back."""
        # signal and window envelope overlap alike, so both ride in one buffer [B, 2, n_fft - hop]
        tail = self.n_fft - self.hop_length
        past, skip = state.get(self, (features.new_zeros(len(features), 2, tail), torch.tensor(self.trim)))
        total = past
        if features.shape[1]:
            frames = self._frames(features)
            envelope = self._overlap_add(self.window.square().expand_as(frames))
            total = torch.stack([self._overlap_add(frames), envelope], dim=1)
            total[..., :tail] += past
        final = total.shape[-1] - (self.trim if last else tail)
        start = min(int(skip), max(final, 0))
        state[self] = (total[..., total.shape[-1] - tail :].clone(), skip - start)
        done = total[..., start:final]
        return done[:, :1] / done[:, 1:]

    def _frames(self, features: Tensor) -> Tensor:
        log_magnitude, phase = self.out(features).float().chunk(2, dim=-1)
        magnitude = log_magnitude.exp().clamp(max=MAX_MAGNITUDE)
        spectrum = torch.complex(magnitude * phase.cos(), magnitude * phase.sin())
        return torch.fft.irfft(spectrum, self.n_fft) * self.window

    def _overlap_add(self, frames: Tensor) -> Tensor:
        """``[B, L, n_fft] -> [B, (L - 1) * hop + n_fft]``."""
        n = (frames.shape[1] - 1) * self.hop_length + self.n_fft
        slices = F.pad(frames, (0, -self.n_fft % self.hop_length)).split(self.hop_length, dim=-1)
        shifted = [F.pad(piece, (0, 0, i, len(slices) - 1 - i)) for i, piece in enumerate(slices)]
        return sum(shifted[1:], shifted[0]).flatten(1)[:, :n]
