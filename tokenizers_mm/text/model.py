"""What the language models of text have in common: rows of bytes in, the cost of each byte out, folders, sessions that go on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from tokenizers_mm.stored import Stored


@dataclass
class Scores:
    """What a model made of rows of bytes.

    Args:
        nats: Cost of each byte, ``[B, L]``; what it says besides bytes (a word's end, a token of several bytes) counts for the
            last byte that it says it after.
        right: Whether the likeliest prediction was true, bool ``[B, L]``.
        extra: What training adds to the cost.
    """

    nats: Tensor
    right: Tensor
    extra: Tensor | float = 0.0


class Session(ABC):
    """Rows of text that go on, each at its own pace.

    Args:
        logits: Of what comes next in each row, ``[B, V]``.
        allowed: What may come next, bool ``[B, V]``.
    """

    logits: Tensor
    allowed: Tensor

    @abstractmethod
    def push(self, ids: Tensor) -> list[bytes]:
        """Add one id to each row; returns the bytes that it stands for (marks among them)."""


class TextLM(Stored, ABC):
    """A language model whose losses are in nats per byte, whatever it reads them as."""

    ends_words = False
    """Whether it says where words end, with a mark."""

    @abstractmethod
    def score(self, signal: Tensor) -> Scores:
        """The cost of rows of documents ``[B, L]`` (see :mod:`tokenizers_mm.text.rows`)."""

    @abstractmethod
    def session(self, prompts: Sequence[bytes], room: int) -> Session:
        """A session that begins with prompts and has room for so many more ids in each row."""

    def prompt(self, text: str) -> bytes:
        """Bytes of a text that is to be gone on with."""
        return text.encode("utf-8")

    def loss(self, signal: Tensor) -> Tensor:
        """Nats per byte, with what else is trained."""
        scores = self.score(signal)
        return scores.nats.sum() / (signal >= 0).sum() + scores.extra


def costs(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Nats of ``targets [...]`` under ``logits [..., V]``, 0 where a target is negative, and whether the likeliest is it."""
    flat = F.cross_entropy(
        logits.flatten(0, -2).float(), targets.clamp(min=-100).flatten(), ignore_index=-100, reduction="none"
    )
    return flat.view(targets.shape), logits.argmax(-1) == targets


def shift(features: Tensor, first: Tensor, fresh: Tensor) -> Tensor:
    """Features ``[B, W, D]`` moved on by one; ``first [D]`` where ``fresh [B, W]`` says that a document begins."""
    moved = torch.cat([features[:, :1], features[:, :-1]], dim=1)
    return torch.where(fresh[..., None], first, moved)
