"""EnCodec: general audio through residual codebooks at 24, 32 or 48 kHz, over ``transformers``' EncodecModel.

Défossez et al., "High Fidelity Neural Audio Compression", TMLR 2023; the 32 kHz model is MusicGen's (Copet et al., "Simple and
Controllable Music Generation", NeurIPS 2023). The network is the library's and ids equal those of the original program. Ours are
exact streaming of the causal model both ways, batches of unequal lengths that equal single items, and long signals window by
window; where a stereo signal's last window but one isn't full, the library fails and we follow the original program.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import torch
from einops import rearrange
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn

from tokenizers_mm.nn.conv import StreamState
from tokenizers_mm.pretrained import TransformersCodec, from_transformers
from tokenizers_mm.tokens import Tokens, TokenSpec


class Encodec(TransformersCodec):
    """Audio to residual codebooks and back; by default the published causal 24 kHz model with all 32 codebooks (24 kbit/s).

    ``with_bitrate(6.0)`` and the other published bandwidths choose their number of codebooks. A stereo model takes two channels:
    they are coded jointly, so a mono signal has to be repeated, not split.

    Args:
        sample_rate: Hz.
        channels: 1 or 2.
        strides: Down-sampling of the encoder's stages, in the order applied; their product is the hop, the decoder mirrors them.
        n_filters: First width of the encoder; it doubles with each stride.
        dim: Width of the features that are quantized.
        lstm_layers: Layers of the LSTM in the encoder and in the decoder.
        codebook_size: Entries of each codebook, a power of two.
        num_codebooks: Residual codebooks.
        causal: Look only at the past.
        norm: Weight-normalised convolutions, or ``"time_group_norm"``: normalised features, over a window's time.
        conv_shortcut: A 1x1 convolution beside the residual units, instead of an identity.
        normalize: Divide each window by its loudness, which then travels in ``side["scale"]`` ``[B, windows]``.
        window_seconds: Encode windows of that length on their own and cross-fade them in decoding; None for the whole signal.
        overlap: Share of a window that the next one repeats.

    Shape:
        ``x [B, channels, N]`` in [-1, 1]; tokens ``[B, ceil(N / hop), Q]``, or the windows' one after another.

    Raises:
        ValueError: If the arguments make no network, or windows that don't overlap at most by half.

    Source:
        https://github.com/facebookresearch/encodec
    """

    def __init__(
        self,
        sample_rate: int = 24000,
        channels: int = 1,
        strides: Sequence[int] = (2, 4, 5, 8),
        n_filters: int = 32,
        dim: int = 128,
        lstm_layers: int = 2,
        codebook_size: int = 1024,
        num_codebooks: int = 32,
        causal: bool = True,
        norm: Literal["weight_norm", "time_group_norm"] = "weight_norm",
        conv_shortcut: bool = True,
        normalize: bool = False,
        window_seconds: float | None = None,
        overlap: float = 0.01,
    ) -> None:
        super().__init__()
        if channels not in (1, 2) or num_codebooks < 1 or not strides:
            raise ValueError(
                "channels must be 1 or 2, num_codebooks at least 1 and strides not empty, "
                f"got {channels}, {num_codebooks} and {tuple(strides)}"
            )
        hop = math.prod(strides)
        config = _network_config(
            target_bandwidths=_bandwidths(num_codebooks, math.ceil(sample_rate / hop) * int(math.log2(codebook_size))),
            sampling_rate=sample_rate,
            audio_channels=channels,
            upsampling_ratios=list(strides)[::-1],
            num_filters=n_filters,
            hidden_size=dim,
            num_lstm_layers=lstm_layers,
            codebook_size=codebook_size,
            use_causal_conv=causal,
            norm_type=norm,
            use_conv_shortcut=conv_shortcut,
            normalize=normalize,
            chunk_length_s=window_seconds,
            overlap=overlap,
        )
        self.model = from_transformers("EncodecModel")(config)
        self.normalize = normalize
        self.causal = causal and norm == "weight_norm" and not normalize and window_seconds is None
        self.padding_safe = self.causal
        self.spec = TokenSpec(
            modality="audio",
            codebook_sizes=(codebook_size,) * num_codebooks,
            hop=(hop,),
            sample_rate=sample_rate,
            channels=channels,
            scalable="columns",
            window=config.chunk_length or 0,
            stride=config.chunk_stride or 0,
        )
        for layer in self.model.quantizer.layers:  # zero by default, which would make every random token 0
            nn.init.kaiming_uniform_(layer.codebook.embed)

    # -- whole signals -----------------------------------------------------------------------------------------------------

    def _encode(self, x: Tensor, lengths: Tensor) -> Tokens:
        if self.padding_safe and bool((lengths != x.shape[-1]).any()):
            from tokenizers_mm.audio.pretrained.encodec_layers import ragged

            ids = self._ids(ragged(self.model.encoder.layers, x, lengths.tolist()))
            return Tokens(ids, self.spec, shapes=torch.tensor([[self.spec.steps(n)] for n in lengths.tolist()]))
        return self._join([self._encode_window(part) for part in self._windows([x])])

    def _decode(self, tokens: Tokens) -> Tensor:
        return torch.cat(list(self._overlap_add(self._decode_windows(tokens))), dim=-1)

    def _encode_window(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Ids ``[B, T, Q]`` of signals encoded as one, and their loudness ``[B, 1]`` where it is taken out."""
        scale = None
        if self.normalize:
            mono = x.sum(dim=1, keepdim=True) / x.shape[1]
            scale = mono.square().mean(dim=-1, keepdim=True).sqrt() + 1e-8
            x = x / scale
            scale = scale[:, 0]
        return self._ids(self.model.encoder(x)), scale

    def _ids(self, features: Tensor) -> Tensor:
        """Ids ``[B, k, Q]`` of features ``[B, D, k]``."""
        columns, quantizer = self.spec.num_codebooks, self.model.quantizer
        if not features.shape[-1]:
            return torch.zeros(len(features), 0, columns, dtype=torch.long, device=features.device)
        per_codebook = (
            math.log2(quantizer.codebook_size) * quantizer.frame_rate
        )  # its way to ask for a number of codebooks
        return rearrange(quantizer.encode(features, (columns + 0.5) * per_codebook / 1000), "q b t -> b t q")

    def _features(self, ids: Tensor) -> Tensor:
        return self.model.quantizer.decode(rearrange(ids, "b t q -> q b t"))

    def _join(self, windows: list[tuple[Tensor, Tensor | None]]) -> Tokens:
        scales = [scale for _, scale in windows if scale is not None]
        side = {"scale": torch.cat(scales, dim=1)} if scales else {}
        return Tokens(torch.cat([ids for ids, _ in windows], dim=1), self.spec, side=side)

    # -- windows -----------------------------------------------------------------------------------------------------------

    def _windows(self, pieces: Iterable[Tensor]) -> Iterator[Tensor]:
        """The windows of a signal that comes in consecutive pieces ``[B, C, n]``; a codec without windows takes one piece."""
        window, stride = self.spec.window, self.spec.stride
        if not window:
            yield from pieces
            return
        rest: Tensor | None = None
        for piece in pieces:
            rest = piece if rest is None else torch.cat([rest, piece], dim=-1)
            while rest.shape[-1] >= window:
                yield rest[..., :window]
                rest = rest[..., stride:]
        while rest is not None and rest.shape[-1]:
            yield rest
            rest = rest[..., stride:]

    def _decode_windows(self, tokens: Tokens) -> Iterator[Tensor]:
        """Signals ``[B, C, n]`` of the windows of equally long items, one by one."""
        split = self.spec.window_steps(tokens.ids.shape[1])
        scales = tokens.side.get("scale")
        if self.normalize and (scales is None or scales.shape[1:2] < (len(split),)):
            got = "none" if scales is None else list(scales.shape)
            raise ValueError(f"tokens need side['scale'] [B, {len(split)}], the loudness of each window, got {got}")
        for i, ids in enumerate(tokens.ids.split(split, dim=1)):
            yield self._decode_window(ids, scales[:, i, None, None] if self.normalize and scales is not None else None)

    @torch.no_grad()
    def _decode_window(self, ids: Tensor, scale: Tensor | None) -> Tensor:
        with self._inference():
            signal = self.model.decoder(self._features(ids))
            return signal if scale is None else signal * scale

    def _overlap_add(self, windows: Iterable[Tensor]) -> Iterator[Tensor]:
        """Consecutive pieces of the signal that cross-faded windows make: weights rise and fall linearly over a window."""
        stride = self.spec.stride
        weight = total = mixed = None
        for part in windows:
            n = part.shape[-1]
            if weight is None or mixed is None or total is None:
                if not self.spec.window:
                    yield part
                    return
                t = torch.linspace(0, 1, n + 2, dtype=part.dtype, device=part.device)[1:-1]
                weight = 0.5 - (t - 0.5).abs()
                mixed, total = weight * part, weight.clone()
                continue
            yield mixed[..., :stride] / total[:stride]
            mixed, total = mixed[..., stride:], total[stride:]
            longer = max(0, n - mixed.shape[-1])
            mixed, total = nn.functional.pad(mixed, (0, longer)), nn.functional.pad(total, (0, longer))
            mixed[..., :n] += weight[:n] * part
            total[:n] += weight[:n]
        if mixed is not None and total is not None:
            yield mixed / total

    def encode_long(
        self, x: Tensor | Iterable[Tensor], *, window_seconds: float = 10.0, context_seconds: float = 1.0
    ) -> Tokens:
        """As :meth:`Codec.encode_long`; a codec of windows takes its own instead, one by one, and equals ``encode``."""
        if not self.spec.window:
            return super().encode_long(x, window_seconds=window_seconds, context_seconds=context_seconds)
        total = 0

        def checked() -> Iterator[Tensor]:
            nonlocal total
            for piece in [x] if isinstance(x, Tensor) else x:
                piece = piece if piece.ndim == self.signal_ndim else piece[None]
                self._check_signal(piece, None, None)
                total += piece.shape[-1]
                yield piece.to(self.device, self.model.dtype)

        with torch.no_grad(), self._inference():
            windows = [self._encode_window(part) for part in self._windows(checked())]
        if not windows:
            raise ValueError("x must hold at least one sample, got none")
        tokens = self._join(windows)
        size = torch.full((len(tokens), 1), total, device=tokens.device)
        return Tokens(tokens.ids, self.spec, side={**tokens.side, "size": size})

    def decode_long(
        self, tokens: Tokens, *, window_seconds: float = 10.0, context_seconds: float = 1.0
    ) -> Iterator[Tensor]:
        """As :meth:`Codec.decode_long`; a codec of windows takes its own instead, one by one, and equals ``decode``."""
        if not self.spec.window:
            return super().decode_long(tokens, window_seconds=window_seconds, context_seconds=context_seconds)
        if len(tokens) != 1:
            raise ValueError(f"tokens must hold one item, got {len(tokens)}: decode items one by one")
        self._check_spec(tokens.spec)
        size = tokens.side.get("size")
        total = int(size[0, -1]) if size is not None else self.spec.samples(int(tokens.lengths[0]))
        tokens = tokens[0].to(self.device)
        return _take(self._overlap_add(self._decode_windows(tokens)), total)

    # -- streaming ---------------------------------------------------------------------------------------------------------

    @property
    def streamable(self) -> bool:
        return self.causal

    @property
    def encode_latency_seconds(self) -> float:
        """The start takes longest: the first convolutions mirror what comes, so the first 7 published tokens come together."""
        from tokenizers_mm.audio.pretrained.encodec_layers import startup

        return startup(self.model.encoder.layers) / float(self.spec.sample_rate or 1)

    @property
    def decode_latency_seconds(self) -> float:
        """How long the first step's samples wait for the steps that the decoder mirrors; later steps come out at once."""
        from tokenizers_mm.audio.pretrained.encodec_layers import startup

        return (startup(self.model.decoder.layers) - 1) / float(self.spec.frame_rate or 1)

    def _encode_step(self, x: Tensor, state: StreamState, *, last: bool = False) -> Tensor:
        from tokenizers_mm.audio.pretrained.encodec_layers import stream

        return self._ids(stream(self.model.encoder.layers, x, state, last=last))

    def _encode_last(self, x: Tensor, state: StreamState) -> Tensor:
        return self._encode_step(x, state, last=True)

    def _decode_step(self, ids: Tensor, state: StreamState, *, last: bool) -> Tensor:
        from tokenizers_mm.audio.pretrained.encodec_layers import stream

        return stream(self.model.decoder.layers, self._features(ids), state, last=last)

    def _kbps(self, columns: int) -> float:
        """The published bandwidths leave out what windows repeat: 6 kbit/s are 4 codebooks at 48 kHz, though 1 % more."""
        bits = self.spec.bits_per_step * columns / self.spec.num_codebooks
        return bits * float(self.spec.sample_rate or 0) / math.prod(self.spec.hop or ()) / 1000


def _network_config(**fields: Any) -> Any:
    try:
        return from_transformers("EncodecConfig")(**fields)
    except StrictDataclassError as error:
        raise ValueError(" ".join(str(error).split())) from None


def _bandwidths(num_codebooks: int, bits: int) -> tuple[float, ...]:
    """Kilobits per second, rounded frame rates times bits, of 2, 4, 8, ... and all codebooks: how the library counts them."""
    counts = sorted({num_codebooks, *(2**i for i in range(1, num_codebooks.bit_length()) if 2**i < num_codebooks)})
    rates = (count * bits / 1000 for count in counts)
    return tuple(rate if rate * 1000 >= round(rate * 1000) else math.nextafter(rate, math.inf) for rate in rates)


def _take(pieces: Iterable[Tensor], total: int) -> Iterator[Tensor]:
    """The first ``total`` samples of a signal in pieces."""
    for piece in pieces:
        yield piece[..., :total]
        total -= piece.shape[-1]
        if total <= 0:
            return
