"""Any audio codec on recordings of another rate and channel count: resampling and channels made explicit, lengths exact."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from einops import rearrange, repeat
from torch import Tensor

from tokenizers_mm.codec import Codec
from tokenizers_mm.tokens import Tokens, TokenSpec

Channels = Literal["mix", "each", "native"]
SOURCE = "source"
"""Name in ``Tokens.side``: per item the recording's rate in Hz and samples, this item's part of it, and how many parts it has."""


@dataclass(frozen=True)
class Adapted:
    """A codec behind resampling and a channel policy: made by :func:`adapt`.

    Args:
        codec: The codec.
        sample_rate: Rate of the recordings in Hz.
        channels: How their channels reach the codec.
    """

    codec: Codec
    sample_rate: int
    channels: Channels

    @property
    def spec(self) -> TokenSpec:
        """What the tokens are: the codec's own spec, so that whatever reads its tokens reads these."""
        return self.codec.spec

    def encode(self, x: Tensor, lengths: Tensor | None = None) -> Tokens:
        """Tokens of a batch of recordings.

        Args:
            x: Float audio ``[B, C, N]`` at ``sample_rate``.
            lengths: Valid samples of each, int ``[B]``; by default all of them.

        Returns:
            Tokens of B items, or of ``B * C`` for ``"each"``, one recording's channels in a row.

        Raises:
            TypeError: If ``x`` is not a float tensor.
            ValueError: If its shape, lengths or values are not what the codec takes.
        """
        if not isinstance(x, Tensor) or not x.is_floating_point() or x.ndim != 3 or 0 in x.shape:
            got = f"{x.dtype} {list(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
            raise (ValueError if isinstance(x, Tensor) and x.is_floating_point() else TypeError)(
                f"expected float audio [B, C, N] at {self.sample_rate} Hz, got {got}"
            )
        lengths = torch.full((len(x),), x.shape[-1]) if lengths is None else torch.as_tensor(lengths).cpu()
        fits = lengths.shape == (len(x),) and bool(((lengths > 0) & (lengths <= x.shape[-1])).all())
        if lengths.is_floating_point() or not fits:
            raise ValueError(f"lengths must be {len(x)} whole numbers from 1 to {x.shape[-1]}, got {lengths.tolist()}")
        past_end = torch.arange(x.shape[-1], device=x.device) >= lengths.to(x.device)[:, None]
        x = x.masked_fill(past_end[:, None], 0)
        parts = 1
        if self.channels == "mix":
            x = x.mean(dim=1, keepdim=True)
        elif self.channels == "each":
            parts = x.shape[1]
            x, lengths = rearrange(x, "b c n -> (b c) 1 n"), lengths.repeat_interleave(parts)
        rate = self._codec_rate
        tokens = self.codec.encode(
            self._spread(_resample(x, self.sample_rate, rate)), -(-lengths * rate // self.sample_rate), sample_rate=rate
        )
        part = torch.arange(len(x)) % parts
        source = torch.stack(
            [torch.full_like(part, self.sample_rate), lengths.long(), part, torch.full_like(part, parts)], dim=1
        )
        return replace(tokens, side={**tokens.side, SOURCE: source.to(tokens.device)})

    def decode(self, tokens: Tokens) -> Tensor:
        """Recordings ``[B, C, N]`` at ``sample_rate``, each cut to its original length, the batch zero-padded to the longest.

        C is 1 for ``"mix"``, the recording's own for ``"each"``, and the codec's for ``"native"``.

        Raises:
            TypeError: If ``tokens`` is not a :class:`Tokens`.
            ValueError: If they were not made by an adapted codec of this rate, or some channels of a recording are missing.
        """
        source = self._source(tokens)
        x = self.codec.decode(replace(tokens, side={k: v for k, v in tokens.side.items() if k != SOURCE}))
        if self.channels != "native":
            x = x.mean(dim=1, keepdim=True)
        x = _resample(x, self._codec_rate, self.sample_rate)
        samples, parts = source[:, 1].to(x.device), int(source[0, 3])
        x = x[..., : int(samples.max())]
        x = x.masked_fill((torch.arange(x.shape[-1], device=x.device) >= samples[:, None])[:, None], 0)
        return rearrange(x, "(b p) c n -> b (p c) n", p=parts)

    def reconstruct(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """``decode(encode(x, lengths))``."""
        return self.decode(self.encode(x, lengths))

    @property
    def _codec_rate(self) -> int:
        return int(self.codec.spec.sample_rate or self.sample_rate)

    def _spread(self, x: Tensor) -> Tensor:
        """One channel as the several that the codec takes; ``"native"`` signals go as they are."""
        count = 1 if self.channels == "native" else self.codec.spec.channels or 1
        return x if count == 1 else repeat(x, "b 1 n -> b c n", c=count)

    def _source(self, tokens: Tokens) -> Tensor:
        if not isinstance(tokens, Tokens):
            raise TypeError(f"tokens must be Tokens, got {type(tokens).__name__}")
        source = tokens.side.get(SOURCE)
        if source is None or source.ndim != 2 or source.shape[1] != 4 or len(source) == 0:
            shapes = {name: list(value.shape) for name, value in tokens.side.items()}
            raise ValueError(f"tokens must come from an adapted codec, whose side has {SOURCE!r} [B, 4]; got {shapes}")
        source = source.cpu()
        rate, samples, part, parts = source.unbind(dim=1)
        if bool((rate != self.sample_rate).any()):
            got = sorted(set(rate.tolist()))
            raise ValueError(f"tokens must be of {self.sample_rate} Hz recordings, got {got} Hz")
        wanted = torch.arange(len(part)) % parts[0].clamp(min=1)
        if bool((parts != parts[0]).any() or (part != wanted).any() or (samples < 1).any()) or len(part) % int(
            parts[0]
        ):
            raise ValueError(f"tokens must hold every channel of each recording in order, got channels {part.tolist()}")
        return source


def adapt(codec: Codec, sample_rate: int, channels: Channels = "mix") -> Adapted:
    """A codec for recordings of any rate and channel count.

    Args:
        codec: An audio codec.
        sample_rate: Rate of the recordings in Hz.
        channels: ``"mix"`` encodes their mean and gives one channel back; ``"each"`` encodes every channel as an item of its own
            and gives all of them back; ``"native"`` hands them to the codec as they are. A codec of several channels gets copies
            of a single one, and the mean of its output counts.

    Raises:
        ValueError: If the codec is not one of audio, the rate is not a positive whole number, or the policy is none of these.
    """
    if codec.spec.modality != "audio":
        raise ValueError(f"codec must be an audio codec, got one of {codec.spec.modality}")
    if isinstance(sample_rate, bool) or sample_rate != int(sample_rate) or sample_rate < 1:
        raise ValueError(f"sample_rate must be a positive whole number of Hz, got {sample_rate}")
    if channels not in ("mix", "each", "native"):
        raise ValueError(f"channels must be 'mix', 'each' or 'native', got {channels!r}")
    return Adapted(codec, int(sample_rate), channels)


def _resample(x: Tensor, from_rate: int, to_rate: int) -> Tensor:
    if from_rate == to_rate:
        return x
    from tokenizers_mm.audio.files import resample

    return resample(x, from_rate, to_rate)
