"""Decoders that read a merged prompt and go on with the tokens that they have.

Feher, Vulić and Minixhofer, "Retrofitting (Large) Language Models with Dynamic Tokenization", ACL 2025: the prompt is shorter,
what is written or scored after it are the model's own tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tokenizers_mm.lm.backbone import draw
from tokenizers_mm.text.base_tokens import Prompt
from tokenizers_mm.text.decoders import decoder_of
from tokenizers_mm.text.dynamic_inputs import DynamicInputs


class Prefill:
    """A decoder and its merged prompts.

    Args:
        model: A :class:`SubwordLM` or a decoder of ``transformers``, in evaluation mode.
        inputs: Made for the model, padding on the left.
        ends: Ids that a continuation stops at.

    Raises:
        ValueError: If the inputs are padded on the right.
    """

    def __init__(self, model: Any, inputs: DynamicInputs, ends: Sequence[int] = ()) -> None:
        if inputs.padding != "left":
            raise ValueError(
                f"inputs must be padded on the left, a decoder goes on at the right; got {inputs.padding!r}"
            )
        self.decoder, self.inputs, self.ends = decoder_of(model), inputs, frozenset(ends)

    @torch.no_grad()
    def score(self, prompts: Sequence[Prompt], answers: Sequence[str], merges: int | None = 0) -> Tensor:
        """What answers cost after prompts, merged or not.

        Args:
            prompts: Beginnings.
            answers: One for each, in the model's own tokens; what it would be spelled as by itself.
            merges: Pairs that are merged in the prompts at most; None for all.

        Returns:
            Log-probabilities of whole answers, float32 ``[B]``.

        Raises:
            ValueError: If there are not as many answers as prompts, or one is empty.
        """
        tokens = [torch.tensor(self.inputs.base.answer(answer)) for answer in answers]
        if len(tokens) != len(prompts) or not all(map(len, tokens)):
            raise ValueError(
                f"answers must be one for each prompt and not empty, got {[*answers]} for {len(prompts)} prompts"
            )
        batch = self.inputs(prompts, merges=merges)
        device = batch.mask.device
        ids = nn.utils.rnn.pad_sequence(tokens, batch_first=True, padding_value=-1).to(device)
        x = torch.cat([batch.embeddings, self.inputs.embedding(ids[:, :-1].clamp(min=0))], dim=1)
        mask = torch.cat([batch.mask, (ids[:, :-1] >= 0).to(batch.mask)], dim=1)
        logits = self.decoder.logits(x, mask, ids.shape[1])
        logp = logits.float().log_softmax(-1).gather(-1, ids.clamp(min=0)[..., None])[..., 0]
        return logp.masked_fill(ids < 0, 0).sum(dim=1)

    @torch.no_grad()
    def generate(
        self,
        prompts: Sequence[Prompt],
        max_tokens: int,
        *,
        merges: int | None = 0,
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> list[list[int]]:
        """Ids of what each prompt goes on with; other arguments as in :func:`tokenizers_mm.lm.backbone.draw`.

        For all that ``generate`` of ``transformers`` can do, hand it ``inputs(prompts).model_inputs``.
        """
        batch = self.inputs(prompts, merges=merges)
        found = self.decoder.start(batch.embeddings, batch.mask, max_tokens)
        rows: list[list[int]] = [[] for _ in prompts]
        open_rows = set(range(len(rows)))
        for _ in range(max_tokens):
            ids = draw(found.logits, temperature=temperature, top_k=top_k, top_p=top_p, generator=generator)
            for i in sorted(open_rows):
                rows[i].append(int(ids[i]))
            open_rows -= {i for i in open_rows if rows[i][-1] in self.ends}
            if not open_rows:
                break
            found = self.decoder.step(self.inputs.embedding(ids))
        return rows
