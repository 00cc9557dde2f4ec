"""How large a codec's tokens are as one file whose ids a language model codes.

Delétang et al., "Language Modeling Is Compression", ICLR 2024. The file is real, headers included, and so is the time that it
takes: ids are coded one after the other, by a network in 3 to 10 milliseconds each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from tokenizers_mm import bitstream
from tokenizers_mm.lm.compression import LMCoder
from tokenizers_mm.lm.predicts import Prediction, Predicts
from tokenizers_mm.tokens import Tokens, TokenSpec


@dataclass(frozen=True)
class LMFile:
    """A set of tokens as a ``.mmt`` file, coded by a language model.

    Args:
        name: Of the model, as it was given.
        fingerprint: SHA-256 over the model.
        real_bytes: Size of the file; None if the model does not know such tokens.
        reason: Why not.
    """

    name: str
    fingerprint: str
    real_bytes: int | None
    reason: str | None = None


def lm_file(name: str, coder: LMCoder, tokens: Sequence[Tokens], begun: Callable[[], object]) -> LMFile:
    """Code items as one file.

    Args:
        name: What the report calls the model.
        coder: The model.
        tokens: The items.
        begun: Is called at the begin of each item.
    """
    watched = LMCoder(_Watched(coder.model, begun), coder.name)
    try:
        data = bitstream.dumps(Tokens.cat(tokens), coder=watched)
    except ValueError as error:
        return LMFile(name, coder.fingerprint, None, str(error))
    return LMFile(name, coder.fingerprint, len(data))


class _Watched:
    """A model that tells when it begins an item."""

    def __init__(self, model: Predicts, begun: Callable[[], object]) -> None:
        self.model, self.begun = model, begun
        self.fingerprint, self.num_parameters = model.fingerprint, model.num_parameters

    def coding_order(self, spec: TokenSpec, shape: Sequence[int]) -> np.ndarray:
        return self.model.coding_order(spec, shape)

    def start(self, spec: TokenSpec, shape: Sequence[int]) -> Prediction:
        item = self.model.start(spec, shape)
        self.begun()
        return item

    def nll(self, tokens: Tokens) -> Tensor:
        return self.model.nll(tokens)
