"""Tokens as a hypernetwork reads them: the base tokens that they are made of, up to so many.

Minixhofer, Ponti and Vulić, "Zero-Shot Tokenizer Transfer", NeurIPS 2024. Parts beyond the length are cut there in silence; here
they are counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from tokenizers_mm.checks import at_least
from tokenizers_mm.text.embedders import Parts
from tokenizers_mm.text.hypernetwork import Hypernetwork


class SurfaceForms:
    """Ids of the parts of tokens.

    Args:
        parts: Of a token; see :func:`~tokenizers_mm.text.embedders.parts_of`.
        length: L, parts that are kept.
        special: Tokens that are no text, with the ids that they have; looked up before anything else.

    Attributes:
        truncated: Tokens so far that have more parts.
    """

    def __init__(self, parts: Parts, length: int = 7, special: Mapping[bytes, int] | None = None) -> None:
        at_least(1, length=length)
        self.parts, self.length, self.special = parts, length, dict(special or {})
        self.truncated = 0

    def __call__(self, tokens: Sequence[bytes]) -> tuple[Tensor, Tensor]:
        """Ids int64 ``[T, L]``, 0 for padding, and which are real, bool ``[T, L]``.

        Raises:
            ValueError: If a token has no parts.
        """
        ids = torch.zeros(len(tokens), self.length, dtype=torch.int64)
        mask = torch.zeros(len(tokens), self.length, dtype=torch.bool)
        for row, token in enumerate(tokens):
            found = [self.special[token]] if token in self.special else list(self.parts(token))
            if not found:
                raise ValueError(f"tokens must have at least one part each, {token!r} has none")
            self.truncated += len(found) > self.length
            kept = found[: self.length]
            ids[row, : len(kept)] = torch.tensor(kept)
            mask[row, : len(kept)] = True
        return ids, mask


class HypernetworkEmbedder:
    """A hypernetwork beside the language model that it was trained for, as a
    :class:`~tokenizers_mm.text.embedders.TokenEmbedder`.

    Args:
        network: The hypernetwork.
        forms: How it reads tokens.
        inputs: The model's embeddings ``[V, D]``.
        outputs: Rows of its output layer ``[V, D]``; None where they are the same.
        language: Number of the language, for networks that know several.
        chunk: Tokens at a time.

    Raises:
        ValueError: If the network is for tied embeddings and the model has others, or the other way round.
    """

    def __init__(
        self,
        network: Hypernetwork,
        forms: SurfaceForms,
        inputs: Tensor,
        outputs: Tensor | None = None,
        language: int | None = None,
        chunk: int = 5000,
    ) -> None:
        at_least(1, chunk=chunk)
        if network.tied != (outputs is None):
            raise ValueError(f"outputs must be given unless the network ties them, got tied={network.tied}")
        self.network, self.forms, self.language, self.chunk = network, forms, language, chunk
        self.source = inputs if outputs is None else torch.cat([inputs, outputs], dim=1)

    @torch.no_grad()
    def __call__(self, tokens: Sequence[bytes]) -> tuple[Tensor, Tensor]:
        """See :class:`~tokenizers_mm.text.embedders.TokenEmbedder`."""
        ids, mask = (x.to(self.source.device) for x in self.forms(tokens))
        language = None if self.language is None else torch.full_like(ids[:, 0], self.language)
        found = [
            self.network(
                ids[at : at + self.chunk],
                mask[at : at + self.chunk],
                self.source,
                None if language is None else language[at : at + self.chunk],
            )
            for at in range(0, max(len(tokens), 1), self.chunk)
        ]
        inputs = torch.cat([part.inputs for part in found])
        return inputs, inputs if self.network.tied else torch.cat([part.outputs for part in found])


def load_hypernetwork(name: str | Path) -> Hypernetwork:
    """The hypernetwork in a folder, or one that ships, in evaluation mode.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is something else.
    """
    from tokenizers_mm import registry  # above the wings: what is found by name

    shipped = registry.data_path("checkpoints") / name
    folder = shipped if not Path(name).is_dir() and shipped.is_dir() else Path(name)
    if not folder.is_dir():
        raise FileNotFoundError(f"no hypernetwork {str(name)!r}: expected a folder, or the name of one that ships")
    return Hypernetwork.from_pretrained(folder)
