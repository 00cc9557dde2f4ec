"""Encoders of ``transformers`` that classify texts, finetuned on merged tokens with a budget drawn anew for each batch.

Feher, Vulić and Minixhofer, "Retrofitting (Large) Language Models with Dynamic Tokenization", ACL 2025; adapters of low rank:
Hu et al., "LoRA", 2022. Input embeddings stay as they are, as predicted ones go with them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from tokenizers_mm.stored import Stored
from tokenizers_mm.text.budgets import Budgets, Distribution
from tokenizers_mm.text.dynamic_inputs import DynamicBatch, DynamicInputs
from tokenizers_mm.text.labelled import Example
from tokenizers_mm.text.merging import Boundary
from tokenizers_mm.text.segmenters.subword import subword_codec
from tokenizers_mm.text.subword import SubwordCodec


class DynamicClassifier(Stored):
    """An encoder, its tokenizer, and what it was taught of budgets.

    Args:
        model: A folder or name of ``transformers``; or keys of a configuration, ``model_type`` among them, for random weights.
        tokenizer: The model's, by folder or name; or a subword codec's card or folder, which gets special tokens of its own.
        labels: Of the classes.
        lora_rank: Of the adapters; None finetunes all but the input embeddings.
        lora_alpha: Scale of the adapters.
        lora_dropout: In front of the adapters.
        budgets: How budgets of training are distributed.
        eval_percent: Of the reduction to words, in validation.
        boundary: What merged tokens stay within.
        max_length: Base tokens of a text at most, special ones among them.

    Raises:
        ImportError: If ``transformers`` or, for adapters, ``peft`` is not installed.
        ValueError: If there are no two labels, or they repeat.
    """

    token_loss = False

    def __init__(
        self,
        model: str | dict[str, Any],
        tokenizer: str,
        labels: list[str],
        lora_rank: int | None = None,
        lora_alpha: int = 256,
        lora_dropout: float = 0.3,
        budgets: Distribution = "uniform",
        eval_percent: float = 50.0,
        boundary: Boundary = "pretokens",
        max_length: int = 128,
    ) -> None:
        super().__init__()
        if len(set(labels)) < max(2, len(labels)):
            raise ValueError(f"labels must be at least two different ones, got {labels}")
        self.labels, self.max_length, self.eval_percent = labels, max_length, eval_percent
        self.tokenizer = load_tokenizer(tokenizer)
        network = _load_model(model, len(self.tokenizer), len(labels))
        network.get_input_embeddings().requires_grad_(False)
        self.model = network if lora_rank is None else _adapted(network, lora_rank, lora_alpha, lora_dropout)
        self.budgets = Budgets(budgets)
        self.boundary = boundary
        self._inputs: DynamicInputs | None = None

    @property
    def inputs(self) -> DynamicInputs:
        """What makes batches; made when it is first needed, as embeddings of new tokens come from the weights then."""
        if self._inputs is None:
            self._inputs = DynamicInputs.of(self.model, self.tokenizer, padding="right", boundary=self.boundary)
        return self._inputs

    def forward(self, batch: DynamicBatch) -> Tensor:
        """Logits ``[B, classes]``."""
        return self.model(**batch.model_inputs).logits

    def loss(self, signal: Sequence[Example]) -> Tensor:
        """Cross-entropy of examples; in training at a budget drawn for this batch."""
        texts, pairs, labels = columns(signal)
        if self.training and self.budgets.wants_more:
            found = self.inputs.sequences(texts, pairs, self.max_length)
            self.budgets.note(self.inputs.merge(found, None).lengths)
        percent = self.budgets.draw() if self.training else self.eval_percent
        merges = self.budgets.merges(percent) if self.training or not self.budgets.wants_more else 0
        logits = self(self.inputs(texts, pairs, merges=merges, max_length=self.max_length))
        return F.cross_entropy(logits, self.targets(labels))

    def targets(self, labels: Sequence[str]) -> Tensor:
        """Numbers of labels ``[B]``. Raises: ValueError: If one is unknown."""
        if unknown := sorted(set(labels) - set(self.labels)):
            raise ValueError(f"labels must be among {self.labels}, got {unknown}")
        return torch.tensor([self.labels.index(label) for label in labels], device=self.device)

    @torch.no_grad()
    def accuracy(self, examples: Sequence[Example], percent: float, batch_size: int = 32) -> tuple[float, float]:
        """How many examples are told right, and the mean tokens of a text, at a budget that the training's table knows."""
        merges, right, tokens = self.budgets.merges(percent), 0, 0
        for at in range(0, len(examples), batch_size):
            texts, pairs, labels = columns(examples[at : at + batch_size])
            batch = self.inputs(texts, pairs, merges=merges, max_length=self.max_length)
            right += int((self(batch).argmax(dim=-1) == self.targets(labels)).sum())
            tokens += int(batch.mask.sum())
        return right / len(examples), tokens / len(examples)

    def _load_from_state_dict(self, *args: Any) -> None:
        self._inputs = None
        super()._load_from_state_dict(*args)


def columns(examples: Sequence[Example]) -> tuple[list[str], list[str] | None, list[str]]:
    """Texts, second texts where all have one, and labels of examples."""
    texts, pairs, labels = (list(column) for column in zip(*examples, strict=True))
    return texts, None if None in pairs else pairs, labels


def load_tokenizer(source: str) -> Any:
    """A fast tokenizer of ``transformers``, or one made of a subword codec with special tokens around texts and between them.

    Raises:
        ImportError: If ``transformers`` is not installed.
    """
    from tokenizers import Tokenizer, processors

    transformers = _transformers()
    if (Path(source) / "tokenizer.json").is_file() or ("/" in source and not Path(source).is_dir()):
        return transformers.AutoTokenizer.from_pretrained(source)
    codec: SubwordCodec = subword_codec(source)
    backend = Tokenizer.from_buffer(codec.file.numpy().tobytes())
    backend.add_special_tokens(["<s>", "</s>", "<pad>"])
    ids = [(name, backend.token_to_id(name)) for name in ("<s>", "</s>")]
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=ids
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )


def _load_model(source: str | dict[str, Any], vocabulary_size: int, classes: int) -> Any:
    transformers = _transformers()
    kind = transformers.AutoModelForSequenceClassification
    if isinstance(source, str):
        return kind.from_pretrained(source, num_labels=classes)
    config = transformers.AutoConfig.for_model(**source, vocab_size=vocabulary_size, num_labels=classes)
    return kind.from_config(config)


def _adapted(network: Any, rank: int, alpha: int, dropout: float) -> Any:
    try:
        from peft import LoraConfig, TaskType, get_peft_model
    except ImportError as error:
        raise ImportError(f"lora_rank needs the package peft: pip install 'tokenizers_mm[hf]' ({error})") from None
    config = LoraConfig(
        task_type=TaskType.SEQ_CLS, r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules="all-linear"
    )
    return get_peft_model(network, config)


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise ImportError(
            f"DynamicClassifier needs the package transformers: pip install 'tokenizers_mm[hf]' ({error})"
        ) from None
    return transformers
