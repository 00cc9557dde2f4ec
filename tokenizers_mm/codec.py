"""Codec: signals to tokens and back. The narrow waist that everything else is written against."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self, overload

import torch
from huggingface_hub import ModelCard
from torch import Tensor, nn

from tokenizers_mm.missing import pack_missing, put_missing
from tokenizers_mm.nn.conv import StreamState
from tokenizers_mm.stored import Stored
from tokenizers_mm.streaming import DecodeStream, EncodeStream
from tokenizers_mm.tokens import Tokens, TokenSpec

_SLACK = 0.1  # share of signal_range by which a sample may pass it: resampling with sharp filters overshoots


@dataclass
class CodecOutput:
    """What a codec's training forward returns.

    Args:
        reconstruction: The decoded signal, shaped like the input.
        ids: int64 ``[B, T, Q]``.
        quantizer_loss: Scalar: commitment and entropy terms of the quantizer, unweighted.
        stats: Scalars to log (perplexity of the batch, share of codes in use).
        losses: Scalars that the codec trains on besides those of its signals, by the names in :attr:`Codec.own_losses`: where a
            system compares what no signal shows (spectra of masked views).
    """

    reconstruction: Tensor
    ids: Tensor
    quantizer_loss: Tensor
    stats: dict[str, Tensor] = field(default_factory=dict)
    losses: dict[str, Tensor] = field(default_factory=dict)


class Codec(Stored, ABC):
    """Turns a batch of signals into :class:`Tokens` and tokens back into signals.

    A codec of tensors implements ``_encode`` and ``_decode`` for items of equal length, and ``forward`` for training;
    this class checks input, groups unequal lengths and keeps original sizes; saving and loading are :class:`Stored`'s.

    Attributes:
        spec: What the tokens are.
        padding_safe: True where zeros appended to an item change none of its tokens, so that unequal lengths are encoded
            in one batch; otherwise items are grouped by length.
        signal_ndim: Dimensions of a batch of signals: 3 for ``[B, C, N]``, 4 for ``[B, 3, H, W]``.
        size_dims: How many trailing dimensions of the signal ``side["size"]`` records.
        signal_range: What samples must lie in, with a little room for rounding and resampling; None for any values.
        allows_missing: True where NaN marks a sample that is missing: ``_encode`` takes it, ``side["missing"]`` keeps its
            place, and decoded signals have NaN there again.
        own_losses: Names of the losses that ``forward`` computes itself.
    """

    spec: TokenSpec
    padding_safe: bool = False
    signal_ndim: int = 3
    size_dims: int = 1
    signal_range: tuple[float, float] | None = None
    allows_missing: bool = False
    own_losses: tuple[str, ...] = ()

    @abstractmethod
    def _encode(self, x: Tensor, lengths: Tensor) -> Tokens:
        """Tokens of signals whose samples past ``lengths`` are zero (all lengths equal unless ``padding_safe``)."""

    @abstractmethod
    def _decode(self, tokens: Tokens) -> Tensor:
        """Signals ``[B, C, >= N]`` of tokens of equal grids."""

    @abstractmethod
    def forward(self, x: Tensor, lengths: Tensor | None = None) -> CodecOutput:
        """Reconstruction with gradients, for training."""

    @property
    def reading(self) -> dict[str, Any]:
        """Options of the wing's file reader that this codec's signals need, by name (see :mod:`tokenizers_mm.reading`)."""
        return {}

    # -- signals <-> tokens ----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def encode(self, x: Tensor, lengths: Tensor | None = None, *, sample_rate: float | None = None) -> Tokens:
        """Tokens of a batch of signals.

        Args:
            x: Float signals, batch first (see the codec's class for shape and range).
            lengths: Valid samples of each item along the last axis, int ``[B]``, or along the last ``size_dims`` axes (height
                and width of images), int ``[B, size_dims]``; by default all of them.
            sample_rate: Rate of ``x`` in Hz, checked against the codec's where given.

        Returns:
            Tokens on the device of ``x``, with the original sizes in ``side["size"]``.

        Raises:
            TypeError: If ``x`` is not a float tensor.
            ValueError: If its shape, rate, lengths or values are not what this codec takes.
        """
        sizes = self._check_signal(x, lengths, sample_rate)
        lengths = sizes[:, -1]
        x = x.to(self.device, next((t.dtype for t in self.parameters()), torch.float32))
        with self._inference():
            if sizes.eq(torch.tensor(x.shape[-sizes.shape[1] :])).all():
                tokens = self._encode(x, lengths)
            elif self.padding_safe and sizes[:, :-1].eq(torch.tensor(x.shape[-sizes.shape[1] : -1])).all():
                past_end = torch.arange(x.shape[-1], device=x.device) >= lengths.to(x.device)[:, None]
                tokens = self._encode(x.masked_fill(past_end.reshape(len(x), *[1] * (x.ndim - 2), -1), 0), lengths)
            else:
                groups = [(sizes == size).all(dim=1).nonzero()[:, 0] for size in sizes.unique(dim=0)]
                parts = [self._encode(_crop(x[g], sizes[g[0]].tolist()), lengths[g]) for g in groups]
                tokens = Tokens.cat(parts)[torch.cat(groups).argsort()]
        side = {**tokens.side, "size": sizes.to(tokens.device)}
        if self.allows_missing:
            items = zip(x, sizes.tolist(), strict=True)
            side["missing"] = pack_missing([_crop(item, size) for item, size in items]).to(tokens.device)
        return replace(tokens, side=side)

    @torch.no_grad()
    def decode(self, tokens: Tokens) -> Tensor:
        """Signals of a batch of tokens, each cut to its original size, the batch zero-padded to the longest.

        Raises:
            TypeError: If ``tokens`` is not a :class:`Tokens`.
            ValueError: If the tokens are another codec's.
        """
        if not isinstance(tokens, Tokens):
            raise TypeError(f"tokens must be Tokens, got {type(tokens).__name__}")
        self._check_spec(tokens.spec)
        if len(tokens) == 0 or bool((tokens.lengths == 0).any()):
            raise ValueError(f"tokens must hold at least one step per item, got lengths {tokens.lengths.tolist()}")
        tokens = tokens.to(self.device)
        with self._inference():
            signals = [torch.empty(0)] * len(tokens)
            for grid in tokens.shapes.unique(dim=0):
                group = (tokens.shapes == grid).all(dim=1).nonzero()[:, 0].tolist()
                for i, signal in zip(group, self._decode(tokens[group]), strict=True):
                    signals[i] = signal
        sizes = tokens.side.get("size")
        if sizes is None:
            sizes = self._natural_sizes(tokens, signals)
        signals = [_crop(signal, size) for signal, size in zip(signals, sizes.tolist(), strict=True)]
        if "missing" in tokens.side:
            signals = [put_missing(x, bits) for x, bits in zip(signals, tokens.side["missing"], strict=True)]
        return _stack(signals)

    def reconstruct(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """``decode(encode(x, lengths))``."""
        return self.decode(self.encode(x, lengths))

    # -- long signals and streams ----------------------------------------------------------------------------------------

    def encode_long(
        self, x: Tensor | Iterable[Tensor], *, window_seconds: float = 10.0, context_seconds: float = 1.0
    ) -> Tokens:
        """Tokens of one signal of any length, in constant memory: see :func:`tokenizers_mm.long.encode_long`."""
        from tokenizers_mm import long

        return long.encode_long(self, x, window_seconds=window_seconds, context_seconds=context_seconds)

    def decode_long(
        self, tokens: Tokens, *, window_seconds: float = 10.0, context_seconds: float = 1.0
    ) -> Iterator[Tensor]:
        """The signal of one item in consecutive pieces: see :func:`tokenizers_mm.long.decode_long`."""
        from tokenizers_mm import long

        return long.decode_long(self, tokens, window_seconds=window_seconds, context_seconds=context_seconds)

    @property
    def streamable(self) -> bool:
        """Whether :meth:`stream` works: the network is causal."""
        return False

    @property
    def encode_latency_seconds(self) -> float:
        """Longest time in a stream from a sample's arrival until its token can be out."""
        return (self.spec.hop or (0,))[-1] / float(self.spec.sample_rate or 1)

    @property
    def decode_latency_seconds(self) -> float:
        """How far a stream's decoded samples lag behind the step that they belong to."""
        return 0.0

    def _encode_step(self, x: Tensor, state: StreamState) -> Tensor:
        """Ids ``[B, k, Q]``, or ``[B, C, k, Q]`` on a grid of channels, that are final after the next whole hops of a stream."""
        raise ValueError(f"{type(self).__name__} cannot stream")

    def _encode_last(self, x: Tensor, state: StreamState) -> Tensor:
        """Ids that are left at a stream's end, after its last samples ``[B, C, n < hop]``; by default of one zero-padded hop."""
        if not x.shape[-1]:
            return self._no_ids(x)
        assert self.spec.hop is not None
        return self._encode_step(nn.functional.pad(x, (0, self.spec.hop[-1] - x.shape[-1])), state)

    def _no_ids(self, x: Tensor) -> Tensor:
        """Ids of no steps of signals ``[B, C, n]``."""
        rows = x.shape[1:2] if len(self.spec.axes) > 1 else ()
        return torch.zeros(len(x), *rows, 0, self.spec.num_codebooks, dtype=torch.long, device=x.device)

    def _decode_step(self, ids: Tensor, state: StreamState, *, last: bool) -> Tensor:
        """Samples ``[B, C, n]`` that are final after the next ids, shaped as ``_encode_step`` gives them."""
        raise ValueError(f"{type(self).__name__} cannot stream")

    @overload
    def stream(self, *, decode: Literal[False] = False) -> EncodeStream: ...

    @overload
    def stream(self, *, decode: Literal[True]) -> DecodeStream: ...

    def stream(self, *, decode: bool = False) -> EncodeStream | DecodeStream:
        """A session that encodes (or decodes) piece by piece, equal to the whole at once.

        Raises:
            ValueError: If the codec is not causal.
        """
        if not self.streamable:
            raise ValueError(
                f"{type(self).__name__} with this configuration is not causal and cannot stream; "
                "use encode_long for long signals or train a causal configuration"
            )
        return DecodeStream(self) if decode else EncodeStream(self)

    def with_bitrate(self, kbps: float) -> Self:
        """The same codec (weights shared) with the most codebooks that stay within ``kbps`` kilobits per second.

        Raises:
            ValueError: If the codec is not scalable in columns, or one codebook is already more than that.
        """
        frame_rate = self.spec.frame_rate
        if frame_rate is None:
            raise ValueError(f"{self.spec.modality} tokens have no time axis, so no bitrate")
        fitting = [q for q in range(1, self.spec.num_codebooks + 1) if self._kbps(q) <= kbps * (1 + 1e-9)]
        if not fitting:
            raise ValueError(f"kbps must be at least {self._kbps(1):g}, got {kbps:g}")
        view = copy.copy(self)
        view.spec = self.spec.prefix(fitting[-1])
        return view

    def _kbps(self, columns: int) -> float:
        rate = (self.spec if columns == self.spec.num_codebooks else self.spec.prefix(columns)).bitrate
        assert rate is not None
        return rate / 1000

    # -- checks ----------------------------------------------------------------------------------------------------------

    def _check_signal(self, x: Tensor, lengths: Tensor | None, sample_rate: float | None) -> Tensor:
        wanted = self._wanted()
        if not isinstance(x, Tensor):
            raise TypeError(f"x must be a tensor: expected {wanted}, got {type(x).__name__}")
        if not x.is_floating_point():
            hint = "scale integers: x / 32768 for int16, x / 255 for uint8" if self.signal_range else "x.float()"
            raise TypeError(f"x must be float: expected {wanted}, got {x.dtype} ({hint})")
        if x.ndim != self.signal_ndim:
            raise ValueError(f"expected {wanted}, got {list(x.shape)}")
        if self.spec.channels and x.shape[1] != self.spec.channels:
            raise ValueError(f"expected {wanted}, got {list(x.shape)} ({x.shape[1]} channels; mix or split them first)")
        if x.numel() == 0:
            raise ValueError(f"x must hold at least one sample: expected {wanted}, got {list(x.shape)}")
        if sample_rate is not None and self.spec.sample_rate is not None and sample_rate != self.spec.sample_rate:
            raise ValueError(f"expected {wanted}, got {sample_rate:g} Hz (resample first)")
        if not torch.isfinite(x.sum()):  # the sum alone may overflow
            self._check_finite(x)
        if self.signal_range is not None:
            self._check_range(x, *self.signal_range)
        return self._check_sizes(x, lengths)

    def _check_finite(self, x: Tensor) -> None:
        wrong = torch.isinf(x) if self.allows_missing else ~torch.isfinite(x)
        if wrong.any():
            item = int(wrong.flatten(1).any(dim=1).nonzero()[0])
            found = "infinity (only NaN marks a missing sample)" if self.allows_missing else "NaN or infinity"
            raise ValueError(f"x must be finite, item {item} holds {found}")

    def _check_range(self, x: Tensor, lowest: float, highest: float) -> None:
        found, slack = [float(limit) for limit in torch.aminmax(x.detach())], _SLACK * (highest - lowest)
        if found[0] < lowest - slack or found[1] > highest + slack:
            raise ValueError(
                f"x must lie in [{lowest:g}, {highest:g}]: expected {self._wanted()}, "
                f"got values from {found[0]:g} to {found[1]:g} (map [-1, 1] to [0, 1] by (x + 1) / 2, [0, 255] by x / 255)"
            )

    def _check_sizes(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        """Sizes ``[B, size_dims]`` of the items, on the CPU, from ``lengths`` in either form."""
        full = torch.tensor(x.shape[-self.size_dims :]).expand(len(x), -1)
        if lengths is None:
            return full
        lengths = torch.as_tensor(lengths)
        if lengths.is_floating_point() or lengths.shape not in ((len(x),), full.shape):
            raise ValueError(
                f"lengths must be {len(x)} whole numbers"
                + (f" or [{len(x)}, {self.size_dims}]" if self.size_dims > 1 else "")
                + f", got {lengths.dtype} {list(lengths.shape)}"
            )
        sizes = (
            torch.cat([full[:, :-1], lengths.long().cpu()[:, None]], 1) if lengths.ndim == 1 else lengths.long().cpu()
        )
        if bool((sizes < 1).any()) or bool((sizes > full).any()):
            raise ValueError(f"lengths must be 1 to {' x '.join(map(str, full[0].tolist()))}, got {lengths.tolist()}")
        return sizes

    def _wanted(self) -> str:
        """The signal this codec takes, in words, for error messages."""
        rate = f" at {self.spec.sample_rate:g} Hz" if self.spec.sample_rate else ""
        return (
            f"{self.spec.modality} [B, {self.spec.channels or 'C'}, {'N' if self.signal_ndim == 3 else 'H, W'}]{rate}"
        )

    def _check_spec(self, spec: TokenSpec) -> None:
        columns = spec.num_codebooks
        mine = (
            self.spec.prefix(columns)
            if self.spec.scalable == "columns" and columns < self.spec.num_codebooks
            else self.spec
        )
        if spec != mine:
            raise ValueError(f"these tokens are another codec's: expected {self.spec}, got {spec}")

    def _natural_sizes(self, tokens: Tokens, signals: list[Tensor]) -> Tensor:
        """Sizes of tokens that no signal came before (a language model's): whole steps."""
        if self.spec.hop is None or self.spec.scales:
            return torch.tensor([s.shape[-self.size_dims :] for s in signals])
        if self.spec.window:
            return tokens.shapes.new_tensor([[self.spec.samples(steps)] for steps in tokens.lengths.tolist()])
        sizes = tokens.shapes * torch.tensor(self.spec.hop, device=tokens.device)
        sizes[:, -1] += self.spec.overlap
        return sizes[:, -self.size_dims :]

    @contextmanager
    def _inference(self) -> Iterator[None]:
        """Evaluation mode inside, whatever the mode outside: no dropout, no codebook update."""
        was_training = self.training
        if was_training:
            self.eval()
        try:
            yield
        finally:
            if was_training:
                self.train()

    def generate_model_card(self, *args: Any, **kwargs: Any) -> ModelCard:
        """What a shared folder's README says: how to load it, and what its tokens are."""
        spec, repo = self.spec, kwargs.get("repo_id")
        source = f"hf:{repo}" if repo else "this-folder"
        facts = {key: value for key, value in spec.to_dict().items() if value not in (None, (), "none")}
        lines = [
            "---\nlibrary_name: tokenizers_mm\ntags: [tokenizer, codec, " + spec.modality + "]\n---\n",
            f"# {type(self).__name__}\n",
            f'```python\nimport tokenizers_mm as tm\n\ncodec = tm.load("{source}")\n```\n',
            *(f"- {key.replace('_', ' ')}: {value}" for key, value in facts.items()),
            f"- bits per step: {spec.bits_per_step:g}",
        ]
        return ModelCard("\n".join(lines) + "\n")


def _crop(signal: Tensor, size: list[int]) -> Tensor:
    for axis, n in enumerate(size, start=signal.ndim - len(size)):
        signal = signal.narrow(axis, 0, min(n, signal.shape[axis]))
    return signal


def _stack(signals: list[Tensor]) -> Tensor:
    """Signals of one rank as one batch, zero-padded at the end of each axis to the largest."""
    if all(s.shape == signals[0].shape for s in signals):
        return torch.stack(signals)
    out = signals[0].new_zeros(len(signals), *(max(n) for n in zip(*(s.shape for s in signals), strict=True)))
    for row, signal in zip(out, signals, strict=True):
        row[tuple(slice(n) for n in signal.shape)] = signal
    return out
