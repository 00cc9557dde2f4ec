"""Language models between the ordinary and the lexinvariant: symbols have rows, some of which a sequence does without.

Huang et al., "Lexinvariant Language Models", NeurIPS 2023, regularise so with a share of 0.2. Raising the share to 1 during
training, which leaves a lexinvariant model behind that learned its language with ordinary embeddings, is ours, as is the guide.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tokenizers_mm.lm.lexinvariant import LexinvariantLM, cross_entropy


class RegularizedLM(LexinvariantLM):
    """A language model some of whose symbols' rows are, in training, random ones of their sequence.

    In evaluation all rows are its own, unless the share has come to 1: then none is, and the model is lexinvariant.

    Args:
        symbols: V: ids of a text's letters, or of a codec's tokens.
        share: Probability that a sequence does without a symbol's row; 0 is an ordinary model.
        guide: Weight, in training, of the cross-entropy of a second output layer that names the symbol just read, whatever row
            the sequence has for it: it teaches to recognise symbols by their use. 0 is the paper's.
        dim: As of :class:`LexinvariantLM`, like all that follow.

    Raises:
        ValueError: If ``share`` is no probability or ``guide`` negative.
    """

    def __init__(
        self,
        symbols: int = 128,
        share: float = 0.2,
        guide: float = 0.0,
        dim: int = 1024,
        layers: int = 12,
        heads: int = 8,
        hidden: int | None = None,
        dropout: float = 0.0,
        rope_base: float = 10000.0,
    ) -> None:
        super().__init__(symbols, dim, layers, heads, hidden, dropout, rope_base)
        if not 0 <= share <= 1 or guide < 0:
            raise ValueError(f"share must be a probability from 0 to 1 and guide not negative, got {share} and {guide}")
        self.share, self.guide = float(share), guide
        self.own = nn.Parameter(torch.randn(symbols, dim))
        self.names = nn.Linear(dim, symbols, bias=False) if guide else None

    @property
    def config(self) -> dict[str, Any]:
        """The ``__init__`` arguments, with the share that training has come to."""
        return {**super().config, "share": self.share}

    def rows(self, batch: int, symbols: int | None = None, generator: torch.Generator | None = None) -> Tensor:
        """Rows ``[batch, V, D]``: of each sequence its own, where they are random.

        Raises:
            ValueError: If ``symbols`` is another number than there are rows.
        """
        if symbols not in (None, self.symbols):
            raise ValueError(f"symbols must be {self.symbols}, for which there are rows, got {symbols}")
        share = self.share if self.training or self.share == 1 else 0.0
        drawn = super().rows(batch, generator=generator)
        replaced = torch.rand(batch, self.symbols, 1, generator=generator) < share
        return torch.where(replaced.to(drawn.device), drawn, self.own)

    def loss(self, signal: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """As of :class:`LexinvariantLM`; in training with the guide's, weighted."""
        ids = signal.long()
        rows = self.fresh_rows(ids, generator)
        states = self.states(ids, rows)
        nats = cross_entropy(self.by_document(states, ids, rows), ids)
        if self.names is None or not self.training:
            return nats
        return nats + self.guide * cross_entropy(self.names(states[:, 1:]), ids[:, :-1])

    def anneal(self, done: float, final: float = 1.0, first: float = 0.0) -> None:
        """Set the share at ``done`` (0 to 1) of a training that goes from ``first`` to ``final``, in a straight line."""
        if not 0 <= done <= 1:
            raise ValueError(f"done must be a share from 0 to 1, got {done}")
        self.share = first + done * (final - first)

    def lexinvariant(self) -> LexinvariantLM:
        """The same network without anything of a symbol."""
        ours, theirs = ("share", "guide"), ("own", "names.weight")
        network = LexinvariantLM(**{name: value for name, value in self.config.items() if name not in ours})
        network.load_state_dict({name: value for name, value in self.state_dict().items() if name not in theirs})
        return network.train(self.training)
