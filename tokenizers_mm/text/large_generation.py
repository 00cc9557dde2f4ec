"""Text written in a vocabulary far larger than the model's: each step looks up the likeliest entries instead of scoring all.

Feher, Vulić and Minixhofer, "Retrofitting (Large) Language Models with Dynamic Tokenization", ACL 2025. Theirs looks for the
smallest angles; here the candidates are those of the largest logits. ``mask_partial`` is ours.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from tokenizers_mm.checks import at_least
from tokenizers_mm.lm import processors
from tokenizers_mm.text.base_tokens import Prompt
from tokenizers_mm.text.decoders import decoder_of
from tokenizers_mm.text.inner_products import FaissIndex, Index
from tokenizers_mm.text.large_vocabulary import LargeVocabulary


@dataclass(frozen=True)
class Sampling:
    """How an entry is drawn.

    Args:
        candidates: Entries that are looked up and among which probabilities are made.
        repetition_penalty: Logits of entries that were there before are divided by it, negative ones multiplied.
        temperature: Of the softmax; 0 takes the likeliest.
        top_k: Entries that are kept.
        min_p: Probability that is kept, in units of the largest.
        end_bias: Added to the logit of an end that is among the candidates.
        mask_partial: After a whole word, only what cannot belong to it: white space, punctuation, an end.

    Raises:
        ValueError: If a number is out of range.
    """

    candidates: int = 20
    repetition_penalty: float = 1.1
    temperature: float = 1.0
    top_k: int = 10
    min_p: float = 0.1
    end_bias: float = 0.0
    mask_partial: bool = False

    def __post_init__(self) -> None:
        at_least(1, candidates=self.candidates, top_k=self.top_k)
        at_least(0, temperature=self.temperature, min_p=self.min_p)
        if self.repetition_penalty <= 0 or self.min_p > 1:
            raise ValueError(
                f"repetition_penalty must be positive and min_p at most 1, got {self.repetition_penalty}, {self.min_p}"
            )


class LargeVocabularyLM:
    """A decoder that reads and writes a large vocabulary.

    Args:
        model: A :class:`SubwordLM` or a decoder of ``transformers``, in evaluation mode.
        vocabulary: Made for the model.
        index: Of ``vocabulary.outputs``; by default a :class:`FaissIndex` tuned on features of entries in random order.
    """

    def __init__(self, model: Any, vocabulary: LargeVocabulary, index: Index | None = None) -> None:
        self.decoder, self.vocabulary = decoder_of(model), vocabulary
        self.index = index or FaissIndex(vocabulary.outputs, queries=self.features(self._anything()))
        ends = set(vocabulary.ends)
        self._never = torch.tensor([i for i, token in enumerate(vocabulary.tokens) if not token and i not in ends])

    @torch.no_grad()
    def generate(
        self,
        prompts: Sequence[Prompt],
        max_tokens: int,
        sampling: Sampling = Sampling(),
        generator: torch.Generator | None = None,
    ) -> list[list[int]]:
        """Ids of what each prompt goes on with, up to an end.

        Args:
            prompts: Beginnings; bytes may end inside a character.
            max_tokens: Ids of each at most.
            sampling: How they are drawn.
            generator: Of the draws.

        Raises:
            ValueError: If there is no prompt, or one has no tokens.
        """
        rows = [[*self.vocabulary.start, *self.vocabulary.encode(prompt)] for prompt in prompts]
        if not rows or not all(rows):
            raise ValueError(f"prompts must hold at least one prompt and each a token, got {[*prompts]}")
        at_least(1, max_tokens=max_tokens)
        sizes = [len(row) for row in rows]
        x, mask = self.embed(rows)
        features = self.decoder.start(x, mask, max_tokens).features
        done = [False] * len(rows)
        for step in range(max_tokens):
            drawn = self.draw(features, rows, sampling, generator)
            for i, token in enumerate(drawn):
                rows[i] += [] if done[i] else [token]
                done[i] = done[i] or token in self.vocabulary.ends
            if all(done) or step + 1 == max_tokens:
                break
            features = self.decoder.step(self.vocabulary.inputs[drawn].to(x)).features
        return [row[size:] for row, size in zip(rows, sizes, strict=True)]

    def complete(
        self,
        prompts: Sequence[Prompt],
        max_tokens: int,
        sampling: Sampling = Sampling(),
        generator: torch.Generator | None = None,
    ) -> list[str]:
        """Prompts and what they go on with as text, U+FFFD for what is no character; arguments as for :meth:`generate`."""
        begun = [prompt.encode("utf-8") if isinstance(prompt, str) else prompt for prompt in prompts]
        found = self.generate(prompts, max_tokens, sampling, generator)
        return [
            (data + self.vocabulary.bytes_of(ids)).decode("utf-8", "replace")
            for data, ids in zip(begun, found, strict=True)
        ]

    @torch.no_grad()
    def features(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """Features ``[B, D]`` after ids, float32: what entries are scored against."""
        return self.decoder.start(*self.embed(rows), 1).features.float().to(self.vocabulary.outputs.device)

    def _anything(self) -> list[list[int]]:
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(0, len(self.vocabulary), (256, 8), generator=generator)
        return [[*self.vocabulary.start, *row] for row in ids.tolist()]

    def embed(self, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Input embeddings ``[B, T, D]`` and mask of ids, padded on the left."""
        ids = nn.utils.rnn.pad_sequence(
            [torch.tensor(row) for row in rows], batch_first=True, padding_value=-1, padding_side="left"
        )
        mask = (ids >= 0).long().to(self.decoder.device)
        return self.vocabulary.inputs[ids.clamp(min=0)].to(self.decoder.device) * mask[..., None], mask

    def draw(
        self, features: Tensor, rows: Sequence[Sequence[int]], sampling: Sampling, generator: torch.Generator | None
    ) -> list[int]:
        """The next id of each row, from features ``[B, D]`` and the ids so far."""
        features = features.float().to(self.vocabulary.outputs.device)
        ids = self._candidates(features, sampling)
        found = []
        for h, near, row in zip(features, ids, rows, strict=True):
            near = near[near >= 0]
            if sampling.mask_partial and self._whole_word(row[-1]):
                near = near[[not _goes_on(self.vocabulary.tokens[i]) for i in near.tolist()]]
            if not len(near):
                near = self._all(h, sampling, row)
            logits = self.vocabulary.outputs[near].float() @ h
            found.append(int(near[_draw(logits, near, row, self.vocabulary.ends, sampling, generator)]))
        return found

    def _candidates(self, features: Tensor, sampling: Sampling) -> Tensor:
        """Ids with the largest logits ``[B, k]``; -1 where fewer were found, and for those that are never written."""
        k = min(sampling.candidates + len(self._never), len(self.vocabulary))
        ids = self.index.search(features, k)
        ids = ids.where(~torch.isin(ids, self._never), -1)
        order = (ids < 0).long().sort(dim=1, stable=True).indices
        return ids.gather(1, order)[:, : sampling.candidates]

    def _all(self, h: Tensor, sampling: Sampling, row: Sequence[int]) -> Tensor:
        """The candidates among all ids that may come, for where the index has none of them."""
        logits = self.vocabulary.outputs.float() @ h
        logits[self._never] = -torch.inf
        if sampling.mask_partial and self._whole_word(row[-1]):
            logits[self._going_on] = -torch.inf
        best = logits.topk(min(sampling.candidates, len(logits)))
        return best.indices[best.values > -torch.inf]

    @cached_property
    def _going_on(self) -> Tensor:
        return torch.tensor([_goes_on(token) for token in self.vocabulary.tokens])

    def _whole_word(self, token: int) -> bool:
        data = self.vocabulary.tokens[token]
        return bool(self.vocabulary.whole[token]) and _is_word(data.decode("utf-8", "replace")[-1:])


def _draw(
    logits: Tensor, ids: Tensor, row: Sequence[int], ends: Sequence[int], sampling: Sampling, generator: Any
) -> int:
    """Which of the candidates ``[k]`` comes next."""
    logits = logits + sampling.end_bias * torch.isin(ids, torch.tensor(ends, dtype=torch.int64))
    again = torch.isin(ids, torch.tensor(row)).nonzero().T
    logits = processors.discourage(logits[None], again, sampling.repetition_penalty)
    drawn = processors.Sampling(sampling.temperature, sampling.top_k, min_p=sampling.min_p)
    return int(processors.choose(logits, drawn, generator))


def _goes_on(token: bytes) -> bool:
    """Whether a token goes on with a word: it begins with a letter, a mark, a digit, or inside a character."""
    return _is_word(token.decode("utf-8", "surrogateescape")[:1])


def _is_word(character: str) -> bool:
    return bool(character) and (unicodedata.category(character)[0] in "LMN" or "\ud800" <= character <= "\udfff")
