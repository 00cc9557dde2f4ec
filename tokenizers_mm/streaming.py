"""Streaming sessions: push pieces of any size, get what is final so far, flush the rest. All state is in the session."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tokenizers_mm.nn.conv import StreamState
from tokenizers_mm.tokens import Tokens

if TYPE_CHECKING:
    from tokenizers_mm.codec import Codec


class EncodeStream:
    """Samples in, tokens out. Joined over time, the tokens of all pushes equal those of one ``encode``.

    A causal codec implements ``_encode_step(x, state) -> ids`` for whole hops ``[B, C, k * hop]``, and ``_encode_last`` where its
    last step isn't that of a zero-padded hop.

    Attributes:
        latency_seconds: Time from a sample's arrival until its token can be out, at worst.
    """

    def __init__(self, codec: Codec) -> None:
        self.codec = codec
        self.state: StreamState = {}
        self.pending: Tensor | None = None
        self.samples = 0
        hop = codec.spec.hop
        assert hop is not None
        self.hop = hop[-1]
        self.latency_seconds = codec.encode_latency_seconds

    @torch.no_grad()
    def push(self, chunk: Tensor) -> Tokens:
        """Tokens of the steps that ``chunk`` ``[B, C, n]`` (any n) completes; maybe none.

        Raises:
            TypeError, ValueError: As :meth:`Codec.encode`; also when the batch size changes within a session.
        """
        empty = isinstance(chunk, Tensor) and chunk.ndim == 3 and chunk.shape[-1] == 0
        if not empty:
            self.codec._check_signal(chunk, None, None)
        if self.pending is not None and len(chunk) != len(self.pending):
            raise ValueError(f"chunk must keep the session's batch of {len(self.pending)}, got {len(chunk)}")
        if self.pending is not None and chunk.shape[1] != self.pending.shape[1]:
            raise ValueError(f"chunk must keep the session's {self.pending.shape[1]} channels, got {chunk.shape[1]}")
        if empty:
            return self._step(chunk)
        chunk = chunk.to(self.codec.device, next((t.dtype for t in self.codec.parameters()), torch.float32))
        self.samples += chunk.shape[-1]
        self.pending = chunk if self.pending is None else torch.cat([self.pending, chunk], dim=-1)
        whole = self.pending.shape[-1] // self.hop * self.hop
        ready, self.pending = self.pending[..., :whole], self.pending[..., whole:]
        return self._step(ready)

    @torch.no_grad()
    def flush(self) -> Tokens:
        """Tokens of the steps that are left, the last one of the samples that wait; the session then starts anew."""
        if self.pending is None:
            raise ValueError("flush needs at least one sample pushed since the session's start or last flush, got none")
        with self.codec._inference():
            tokens = self._tokens(self.codec._encode_last(self.pending, self.state))
        self.state, self.pending, self.samples = {}, None, 0
        return tokens

    def _step(self, x: Tensor) -> Tokens:
        if x.shape[-1] == 0:
            return self._tokens(self.codec._no_ids(x))
        with self.codec._inference():
            return self._tokens(self.codec._encode_step(x, self.state))

    def _tokens(self, ids: Tensor) -> Tokens:
        grid = torch.tensor(ids.shape[1:-1], device=ids.device)
        return Tokens(ids.flatten(1, -2), self.codec.spec, shapes=grid.expand(len(ids), -1))


class DecodeStream:
    """Tokens in, samples out. Joined over time, the samples of all pushes equal those of one ``decode``.

    A causal codec implements ``_decode_step(ids, state, last) -> samples``, returning the samples that no later token can change.

    Attributes:
        latency_seconds: Time by which samples lag behind the step that they belong to.
    """

    def __init__(self, codec: Codec) -> None:
        self.codec = codec
        self.state: StreamState = {}
        self.batch: int | None = None
        self.rows: tuple[int, ...] = ()
        self.latency_seconds = codec.decode_latency_seconds

    @torch.no_grad()
    def push(self, tokens: Tokens) -> Tensor:
        """Samples ``[B, C, n]`` that are final now; n may be 0.

        Raises:
            TypeError: If ``tokens`` is not a :class:`Tokens`.
            ValueError: If they are another codec's, their items differ in length, or the batch size changes within a session.
        """
        if not isinstance(tokens, Tokens):
            raise TypeError(f"tokens must be Tokens, got {type(tokens).__name__}: a decoding session takes no signals")
        self.codec._check_spec(tokens.spec)
        if bool((tokens.lengths != tokens.ids.shape[1]).any() or (tokens.shapes != tokens.shapes[:1]).any()):
            raise ValueError(
                f"the items of a batch of sessions advance together, got lengths {tokens.lengths.tolist()}"
            )
        if self.batch not in (None, len(tokens)):
            raise ValueError(f"tokens must keep the session's batch of {self.batch}, got {len(tokens)}")
        *rows, steps = tokens.shape
        if self.batch is not None and tuple(rows) != self.rows:
            raise ValueError(f"tokens must keep the session's rows {self.rows}, got {tuple(rows)}")
        self.batch, self.rows = len(tokens), tuple(rows)
        ids = tokens.to(self.codec.device).ids
        return self._step(ids.reshape(len(ids), *rows, steps, ids.shape[-1]), last=False)

    @torch.no_grad()
    def flush(self) -> Tensor:
        """The samples that were held back for overlap; the session then starts anew."""
        if self.batch is None:
            raise ValueError("flush needs at least one push since the session's start or last flush, got none")
        shape = (self.batch, *self.rows, 0, self.codec.spec.num_codebooks)
        samples = self._step(torch.zeros(shape, dtype=torch.long, device=self.codec.device), last=True)
        self.state, self.batch = {}, None
        return samples

    def _step(self, ids: Tensor, *, last: bool) -> Tensor:
        with self.codec._inference():
            return self.codec._decode_step(ids, self.state, last=last)
