"""What a hypernetwork is trained on: to repeat the embeddings of base tokens, then to serve the frozen language model.

Minixhofer, Ponti and Vulić, "Zero-Shot Tokenizer Transfer", NeurIPS 2024: cross-entropy of texts in a tokenizer drawn anew for
each batch, and a loss that keeps tokens that are base tokens where they are. Two things are ours: with :class:`BatchMerges` a
part of each text can stay in base tokens, whose embeddings stay the model's own; and instead of the texts, the model itself can
teach: after a new token it should say of the next base token what it says after the parts, which is a signal of far less noise.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tokenizers_mm.checks import at_least
from tokenizers_mm.text.base_models import BaseLM
from tokenizers_mm.text.embedders import parts_of
from tokenizers_mm.text.hypernetwork import Hypernetwork, Predicted
from tokenizers_mm.text.model import costs
from tokenizers_mm.text.rows import END
from tokenizers_mm.text.sampled import Sampled, Sampler, merge_prefixes
from tokenizers_mm.text.segmenters.base import whole_characters
from tokenizers_mm.text.surface import SurfaceForms

Objective = Literal["likelihood", "distillation"]


class Retrofit(nn.Module):
    """A hypernetwork beside the frozen model that it serves.

    Args:
        base: The model.
        hypernetwork: What is trained.
        sampler: Draws the tokenizers.
        objective: ``"likelihood"``, cross-entropy of the texts, as published, for input and output embeddings; or
            ``"distillation"``, divergence from the model that reads base tokens, for input embeddings.
        lexical_weight: Of the loss that keeps base tokens where they are.
        identity_tokens: Base tokens of a step of the first phase.
        lexical_tokens: Base tokens drawn for the lexical loss besides those that the sampled vocabulary has.

    Raises:
        ValueError: If the hypernetwork's sizes are not the model's, or a number is out of range.
    """

    def __init__(
        self,
        base: BaseLM,
        hypernetwork: Hypernetwork,
        sampler: Sampler,
        objective: Objective = "likelihood",
        lexical_weight: float = 0.5,
        identity_tokens: int = 16384,
        lexical_tokens: int = 0,
    ) -> None:
        super().__init__()
        at_least(1, identity_tokens=identity_tokens)
        at_least(0, lexical_weight=lexical_weight, lexical_tokens=lexical_tokens)
        wanted = len(base.pieces.tokens), base.inputs.shape[1], base.tied
        found = hypernetwork.vocabulary_size, hypernetwork.dim, hypernetwork.tied
        if found != wanted or hypernetwork.languages:
            raise ValueError(
                f"hypernetwork must have the base's vocabulary_size, dim and tied {wanted} and no languages, got {found} and "
                f"{hypernetwork.languages}"
            )
        if objective not in get_args(Objective):
            raise ValueError(f"objective must be one of {get_args(Objective)}, got {objective!r}")
        self.base, self.hypernetwork, self.sampler, self.objective = base, hypernetwork, sampler, objective
        self.forms = SurfaceForms(parts_of(base.pieces), hypernetwork.surface_length)
        self.lexical_weight, self.identity_tokens, self.lexical_tokens = lexical_weight, identity_tokens, lexical_tokens

    def start(self) -> None:
        """Set the scalers of an untrained hypernetwork."""
        self.hypernetwork.fit_scalers(self.base.source)

    def identity_loss(self) -> Tensor:
        """Squared distance of predicted embeddings of random base tokens to theirs, mean of tokens, and of in and out."""
        ids = self._draw(self.identity_tokens)
        return self._distance(self._predict(ids[:, None], torch.ones_like(ids, dtype=torch.bool)[:, None]), ids).mean()

    def loss(self, signal: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of rows of bytes ``[B, L]`` (see :mod:`tokenizers_mm.text.rows`), and its terms, detached.

        Raises:
            ValueError: If there is no text in them.
        """
        texts = list(texts_of(signal.tolist()))
        if not texts:
            raise ValueError("signal must hold text, got none")
        sampled = self.sampler(texts, self.base)
        ids, mask = (x.to(signal.device) for x in self.forms(sampled.tokens))
        drawn = self._draw(self.lexical_tokens)
        count, alone = len(ids), F.pad(drawn[:, None], (0, ids.shape[1] - 1))
        ids, mask = torch.cat([ids, alone]), torch.cat([mask, torch.arange(ids.shape[1]).expand_as(alone).to(ids) == 0])
        found = self._predict(ids, mask)
        if self.objective == "likelihood":
            cost = self.cost(sampled, found.inputs[:count], found.outputs[:count]).mean()
        else:
            plain = merge_prefixes(self.base, texts, [1.0] * len(texts), 0)
            read = Read.of(self.base, sampled, found.inputs[:count])
            cost = divergence(self.base, plain, Read.of(self.base, plain, self.base.inputs[:0]), sampled, read).mean()
        single = (mask.sum(dim=1) == 1) & (ids[:, 0] < self.hypernetwork.vocabulary_size)
        lexical = self._lexical(found, single, ids[:, 0])
        return cost + self.lexical_weight * lexical, {"lm": cost.detach(), "lexical": lexical.detach()}

    def cost(self, sampled: Sampled, inputs: Tensor, outputs: Tensor) -> Tensor:
        """Nats of each token, those of the prefixes first, then those of what follows them.

        Args:
            sampled: The texts.
            inputs: Embeddings of its tokens ``[n, D]``.
            outputs: Rows of the output layer for them ``[n, D]``.
        """
        read = Read.of(self.base, sampled, inputs)
        table = outputs if sampled.closed else torch.cat([self.base.outputs, outputs])
        first = len(self.base.inputs) if sampled.closed else 0
        merged, _ = costs(read.features[read.prefix] @ table.T.to(read.features.dtype), read.told[read.prefix] - first)
        after, _ = costs(read.continuation_logits(self.base), read.told[read.after])
        return torch.cat([merged, after])

    def _draw(self, count: int) -> Tensor:
        size = self.hypernetwork.vocabulary_size
        return torch.randperm(size)[:count].to(self.base.inputs.device)

    def _predict(self, ids: Tensor, mask: Tensor) -> Predicted:
        return self.hypernetwork(ids, mask, self.base.source)

    def _distance(self, found: Predicted, ids: Tensor) -> Tensor:
        """Squared distances of tokens to their base tokens ``[n]``, mean of in and out."""
        inputs = (found.inputs - self.base.inputs[ids]).square().sum(dim=1)
        return inputs if self.base.tied else (inputs + (found.outputs - self.base.outputs[ids]).square().sum(dim=1)) / 2

    def _lexical(self, found: Predicted, single: Tensor, ids: Tensor) -> Tensor:
        """Squared distance of single base tokens to theirs over the norm of these, mean of tokens and of in and out."""
        if not single.any():
            return found.inputs.new_zeros(())
        ids = ids[single]
        pairs = [(found.inputs, self.base.inputs)] + ([] if self.base.tied else [(found.outputs, self.base.outputs)])
        terms = [
            (rows[single] - real[ids]).square().sum(dim=1).mean() / real[ids].norm(dim=1).mean() for rows, real in pairs
        ]
        return torch.stack(terms).mean()


@dataclass(frozen=True)
class Read:
    """What the frozen model made of a batch.

    Args:
        features: Before the output layer, ``[B, T, D]``.
        told: Which row of the table of embeddings comes next, int64 ``[B, T]``: the base's, then those of the sampled tokens.
        prefix: Where that is a token of a prefix, bool ``[B, T]``.
        after: Where it is one of what follows, bool ``[B, T]``.
    """

    features: Tensor
    told: Tensor
    prefix: Tensor
    after: Tensor

    @classmethod
    def of(cls, base: BaseLM, sampled: Sampled, inputs: Tensor) -> Read:
        """Run the model on texts whose tokens have these embeddings ``[n, D]``."""
        ids, prefix, after = layout(sampled, len(base.pieces.tokens), len(base.inputs), base.start)
        ids, prefix, after = (x.to(inputs.device) for x in (ids, prefix, after))
        table = torch.cat([base.inputs, inputs.to(base.inputs.dtype)])
        return cls(base.features(F.embedding(ids[:, :-1], table)), ids[:, 1:], prefix[:, 1:], after[:, 1:])

    def continuation_logits(self, base: BaseLM) -> Tensor:
        """Of what follows the prefixes, among the base's own rows: ``[n, V']``."""
        return self.features[self.after] @ base.outputs.T


def divergence(base: BaseLM, plain: Sampled, taught: Read, sampled: Sampled, read: Read) -> Tensor:
    """Kullback-Leibler divergence of what comes next after tokens from what comes next after their parts, in nats.

    Args:
        base: The model.
        plain: Texts in base tokens.
        taught: What the model made of them.
        sampled: The texts in other tokens, or beginnings of them.
        read: What the model made of these.

    Returns:
        One for each place at which tokens of both end, but ends of rows.
    """
    ends = [_ends(base, each) for each in (plain, sampled)]
    common = [sorted(a.keys() & b.keys()) for a, b in zip(*ends, strict=True)]
    row = torch.tensor([i for i, found in enumerate(common) for _ in found], dtype=torch.int64)
    logits = []
    for features, places in zip((taught.features.detach(), read.features), ends, strict=True):
        at = torch.tensor([places[i][end] for i, found in enumerate(common) for end in found], dtype=torch.int64)
        chosen = features[row.to(features.device), at.to(features.device)]
        logits.append((chosen @ base.outputs.T).float().log_softmax(dim=-1))
    return F.kl_div(logits[1], logits[0], reduction="none", log_target=True).sum(dim=-1)


def _ends(base: BaseLM, sampled: Sampled) -> list[dict[int, int]]:
    """For each row, from the byte at which a token ends, but for the last one, to its place after the start."""
    sizes = [len(token) for token in (*base.pieces.tokens, *sampled.tokens)]
    return [{end: place for place, end in enumerate(accumulate(sizes[i] for i in row[:-1]), 1)} for row in sampled.rows]


def texts_of(rows: Sequence[Sequence[int]]) -> Iterator[str]:
    """The documents of rows of bytes with -1 between them, without their ends and without characters that break off."""
    for row in rows:
        data = bytes([END if value < 0 else value for value in row])
        for text in data.split(bytes([END])):
            if whole := whole_characters(text):
                yield text[:whole].decode("utf-8")


def layout(sampled: Sampled, size: int, rows: int, start: int) -> tuple[Tensor, Tensor, Tensor]:
    """A batch as places in a table of the base's rows and those of the sampled tokens after them.

    Args:
        sampled: The texts.
        size: Of the base's vocabulary.
        rows: Of the base's embeddings, which may be more.
        start: Id before each text.

    Returns:
        Places int64 ``[B, T]``, 0 after a row's end, where nothing before them can see them; whether each is of a prefix,
        whether it is of what follows, bool ``[B, T]``.
    """
    found = [[start, *(i if i < size else i - size + rows for i in row)] for row in sampled.rows]
    ids = nn.utils.rnn.pad_sequence([torch.tensor(row, dtype=torch.int64) for row in found], batch_first=True)
    at, lengths = torch.arange(ids.shape[1]), torch.tensor([[len(row)] for row in found])
    border = torch.tensor([[count + 1] for count in sampled.prefix])
    return ids, (at > 0) & (at < border), (at >= border) & (at < lengths)
