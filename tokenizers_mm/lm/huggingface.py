"""Codec tokens as added tokens of any Hugging Face tokenizer, and a causal model of theirs finetuned on them.

Each id of a :class:`Vocabulary` becomes a token with its name, ``<image:0:123>``, so that documents are strings that may stand
beside text in prompts, chat templates and data sets of any tool that reads strings.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

import torch
from torch import Tensor, nn

from tokenizers_mm.lm.grammar import Cursor
from tokenizers_mm.lm.vocabulary import BOS, EMPTY, EOS, PAD, Vocabulary
from tokenizers_mm.tokens import Tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

VOCABULARY = "vocabulary.json"
_NAME = re.compile(r"<[^<>\s]+>")


class AddedTokens:
    """A tokenizer that knows a vocabulary's ids.

    Args:
        tokenizer: Of any model; gets the names as added tokens. Its own tokens begin, end and pad documents where it has them.
        vocabulary: What to add; its steps must hold one id.

    Raises:
        ValueError: If steps hold several ids or are predicted several at once, or the tokenizer has neither an end nor padding.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, vocabulary: Vocabulary) -> None:
        if vocabulary.lanes > 1:
            raise ValueError(f"vocabulary must have steps of one id (pattern 'flatten'), got {vocabulary.lanes}")
        if vocabulary.longest_scale:
            raise ValueError("vocabulary must have steps that come one by one (pattern 'flatten'), got 'multi-scale'")
        if tokenizer.eos_token_id is None:
            raise ValueError("tokenizer must have an end-of-sequence token, this one has none")
        from tokenizers import AddedToken

        self.tokenizer, self.vocabulary, self.names = tokenizer, vocabulary, list(vocabulary.names())
        own = {PAD: tokenizer.pad_token_id, BOS: tokenizer.bos_token_id, EOS: tokenizer.eos_token_id}
        own[PAD] = tokenizer.eos_token_id if own[PAD] is None else own[PAD]  # never told from the end: it is masked
        own[BOS] = tokenizer.eos_token_id if own[BOS] is None else own[BOS]
        new = [name for id_, name in enumerate(self.names) if id_ not in own and id_ != EMPTY]
        tokenizer.add_tokens([AddedToken(name, normalized=False) for name in new])
        found = cast(list[int], tokenizer.convert_tokens_to_ids(self.names))
        found[EMPTY] = cast(int, own[PAD])  # a step of one id has no empty cells
        for id_, theirs in own.items():
            found[id_] = theirs
        self.theirs = torch.tensor(found)

    def text(self, segments: Iterable[tuple[str, Tokens]]) -> str:
        """Items as a string: stream names and one item each."""
        ids = [self.vocabulary.segment(name, item)[:, 0] for name, item in segments]
        return "".join(self.names[id_] for part in ids for id_ in part.tolist())

    def segments(self, text: str) -> list[tuple[str, Tokens]]:
        """The items in a string, whatever stands between them.

        Raises:
            ValueError: If what begins as an item is none.
        """
        known = {name: id_ for id_, name in enumerate(self.names)}
        ids = [known[name] for name in _NAME.findall(text) if name in known]
        ids = [id_ for id_ in ids if id_ not in (PAD, BOS, EOS)]
        return self.vocabulary.segments(torch.tensor([*self.vocabulary.opening()[:, 0], *ids])[:, None])

    def to_theirs(self, documents: Tensor) -> Tensor:
        """The tokenizer's ids ``[B, S]`` of documents ``[B, S, 1]``."""
        return self.theirs.to(documents.device)[documents[..., 0]]


class HuggingFaceLM(nn.Module):
    """A causal model of ``transformers`` that learns codec tokens beside its own.

    Args:
        model: Folder or hub name of model and tokenizer.
        streams: Whose tokens are added (see :class:`~tokenizers_mm.lm.stream.Stream`).
        classes: Labels of documents.

    Shape:
        documents ``[B, S, 1]``, or strings.
    """

    def __init__(self, model: str, streams: Sequence[Mapping[str, Any]], classes: int | Sequence[str] = 0) -> None:
        super().__init__()
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.vocabulary = Vocabulary(streams, classes)
        self.model = AutoModelForCausalLM.from_pretrained(model, use_safetensors=True)
        self.added = AddedTokens(AutoTokenizer.from_pretrained(model), self.vocabulary)
        if cast(nn.Embedding, self.model.get_input_embeddings()).num_embeddings < len(self.added.tokenizer):
            self.model.resize_token_embeddings(len(self.added.tokenizer))

    def loss(self, signal: Tensor | Sequence[str]) -> Tensor:
        """Mean cross-entropy in nats of all ids but the first of each row and padding."""
        if isinstance(signal, Tensor):
            ids, real = self.added.to_theirs(signal), signal[..., 0] != PAD
        else:
            ids, real = self._ids(signal)
        labels = ids.masked_fill(~real, -100)
        return self.model(input_ids=ids, attention_mask=real.long(), labels=labels).loss

    def _ids(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Ids and which are real, ``[B, S]``, of strings, each with an end."""
        tokenizer = self.added.tokenizer
        rows = [torch.tensor([*tokenizer(text).input_ids, tokenizer.eos_token_id]) for text in texts]
        ids = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=int(self.added.theirs[PAD]))
        sizes = torch.tensor([len(row) for row in rows])
        return ids.to(self.model.device), (torch.arange(ids.shape[1]) < sizes[:, None]).to(self.model.device)

    @torch.no_grad()
    def generate(self, prompt: str, stream: str, max_steps: int = 1024, **options: Any) -> Tokens:
        """One item of a stream after a text; nothing but such an item can come.

        Args:
            prompt: Text, with items of any streams in it if need be.
            stream: What to write.
            max_steps: Ids of the item at most.
            **options: Of ``transformers``' ``generate``: ``do_sample``, ``temperature``, ``top_k`` and so on.

        Raises:
            ValueError: If the item is not complete by then and its grid is fixed.
        """
        begin = self.vocabulary.begin(stream)
        ids = torch.tensor([[*self.added.tokenizer(prompt).input_ids, int(self.added.theirs[begin])]])
        ids = ids.to(self.model.device)
        ours = {int(theirs): id_ for id_, theirs in enumerate(self.added.theirs.tolist())}
        cursor = Cursor(self.vocabulary)
        for step in (*self.vocabulary.opening().tolist(), [begin]):
            cursor.push(step)
        seen, written = ids.shape[1], [begin]

        def allowed(_: int, so_far: Tensor) -> list[int]:
            nonlocal seen
            for theirs in so_far[seen:].tolist():
                written.append(ours[theirs])
                cursor.push(written[-1:])
            seen = len(so_far)
            if cursor.stream is None:  # the item is complete
                return [self.added.tokenizer.eos_token_id]
            return self.added.theirs[cursor.allowed(0).ids].tolist()

        out = self.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=max_steps,
            prefix_allowed_tokens_fn=allowed,
            **options,
        )
        written += [ours[theirs] for theirs in out[0, seen:].tolist() if theirs != self.added.tokenizer.eos_token_id]
        document = torch.cat([self.vocabulary.opening(), torch.tensor(written)[:, None]])
        return self.vocabulary.segments(document)[0][1]

    def save_pretrained(self, folder: str | Path) -> None:
        """Write model and tokenizer as ``transformers`` does, and the vocabulary."""
        self.model.save_pretrained(folder)
        self.added.tokenizer.save_pretrained(folder)
        (Path(folder) / VOCABULARY).write_text(json.dumps(self.vocabulary.to_dict(), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Self:
        """Inverse of :meth:`save_pretrained`.

        Raises:
            FileNotFoundError: If the folder holds no vocabulary.
        """
        file = Path(folder) / VOCABULARY
        if not file.is_file():
            raise FileNotFoundError(f"{folder} has no {VOCABULARY}: expected what HuggingFaceLM.save_pretrained writes")
        return cls(str(folder), **json.loads(file.read_text(encoding="utf-8"))).eval()
