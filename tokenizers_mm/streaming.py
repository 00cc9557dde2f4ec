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

    A causal codec implements ``_encode_step(x, state) -> ids`` for whole hops ``[B, C, k * hop]``.

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
        self.latency_seconds = self.hop / float(codec.spec.sample_rate or 1)

    @torch.no_grad()
    def push(self, chunk: Tensor) -> Tokens:
        """Tokens of the steps that ``chunk`` ``[B, C, n]`` (any n) completes; maybe none.

        Raises:
            TypeError, ValueError: As :meth:`Codec.encode`; also when the batch size changes within a session.
        """
        if chunk.ndim == 3 and chunk.shape[-1] == 0:
            return self._tokens(chunk.new_zeros(len(chunk), 0, self.codec.spec.num_codebooks).long())
        self.codec._check_signal(chunk, None, None)
        if self.pending is not None and len(chunk) != len(self.pending):
            raise ValueError(f"chunk must keep the session's batch of {len(self.pending)}, got {len(chunk)}")
        chunk = chunk.to(self.codec.device)
        self.samples += chunk.shape[-1]
        self.pending = chunk if self.pending is None else torch.cat([self.pending, chunk], dim=-1)
        whole = self.pending.shape[-1] // self.hop * self.hop
        ready, self.pending = self.pending[..., :whole], self.pending[..., whole:]
        return self._step(ready)

    @torch.no_grad()
    def flush(self) -> Tokens:
        """Tokens of the last, zero-padded step, if samples wait; the session then starts anew."""
        if self.pending is None:
            raise ValueError("flush needs at least one push")
        waiting = self.pending.shape[-1]
        padded = torch.nn.functional.pad(self.pending, (0, -waiting % self.hop))
        tokens = self._step(padded)
        self.state, self.pending, self.samples = {}, None, 0
        return tokens

    def _step(self, x: Tensor) -> Tokens:
        if x.shape[-1] == 0:
            return self._tokens(
                torch.zeros(len(x), 0, self.codec.spec.num_codebooks, dtype=torch.long, device=x.device)
            )
        with self.codec._inference():
            return self._tokens(self.codec._encode_step(x, self.state))

    def _tokens(self, ids: Tensor) -> Tokens:
        return Tokens(ids, self.codec.spec)


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
        self.latency_seconds = codec.decode_latency_seconds

    @torch.no_grad()
    def push(self, tokens: Tokens) -> Tensor:
        """Samples ``[B, C, n]`` that are final now; n may be 0.

        Raises:
            ValueError: If the tokens are another codec's or the batch size changes within a session.
        """
        self.codec._check_spec(tokens.spec)
        if self.batch not in (None, len(tokens)):
            raise ValueError(f"tokens must keep the session's batch of {self.batch}, got {len(tokens)}")
        self.batch = len(tokens)
        return self._step(tokens.to(self.codec.device).ids, last=False)

    @torch.no_grad()
    def flush(self) -> Tensor:
        """The samples that were held back for overlap; the session then starts anew."""
        if self.batch is None:
            raise ValueError("flush needs at least one push")
        ids = torch.zeros(self.batch, 0, self.codec.spec.num_codebooks, dtype=torch.long, device=self.codec.device)
        samples = self._step(ids, last=True)
        self.state, self.batch = {}, None
        return samples

    def _step(self, ids: Tensor, *, last: bool) -> Tensor:
        with self.codec._inference():
            return self.codec._decode_step(ids, self.state, last=last)
