"""Language models as their embeddings' replacement needs them: a vocabulary, both embedding matrices, features of embeddings."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Self, cast

import torch
from torch import Tensor, nn

from tokenizers_mm.text.dynamic import pieces_of
from tokenizers_mm.text.flat import SubwordLM
from tokenizers_mm.text.generate import load_model
from tokenizers_mm.text.subword import SubwordCodec


class BaseLM(nn.Module, ABC):
    """A frozen language model over the tokens of a byte-level codec, in evaluation mode whatever the mode around it.

    Args:
        codec: Its tokens.
        start: Id of what a document begins with.

    Raises:
        ValueError: If the codec is not byte-level or changes texts.
    """

    def __init__(self, codec: SubwordCodec, start: int) -> None:
        super().__init__()
        self._codec, self.start, self.pieces = (codec,), start, pieces_of(codec)  # a codec is no part of the weights

    @property
    def codec(self) -> SubwordCodec:
        return self._codec[0]

    @property
    @abstractmethod
    def inputs(self) -> Tensor:
        """Input embeddings ``[V', D]``, those of the codec's tokens first."""

    @property
    @abstractmethod
    def outputs(self) -> Tensor:
        """Rows of the output layer ``[V', D]``; the same tensor where they are tied."""

    @abstractmethod
    def features(self, x: Tensor) -> Tensor:
        """What the output layer multiplies, ``[B, T, D]``, for embeddings ``[B, T, D]``; a step sees none after it."""

    @property
    def tied(self) -> bool:
        """Whether the output layer is the input embedding."""
        return self.outputs is self.inputs

    @property
    def source(self) -> Tensor:
        """What a hypernetwork reads: ``[V', D]``, or ``[V', 2 D]`` of inputs and outputs."""
        return self.inputs if self.tied else torch.cat([self.inputs, self.outputs], dim=1)

    def train(self, mode: bool = True) -> Self:
        return super().train(False)


class SubwordBase(BaseLM):
    """A :class:`~tokenizers_mm.text.flat.SubwordLM`.

    Args:
        model: A shipped model's name, or its folder.

    Raises:
        ValueError: If it is another model.
    """

    def __init__(self, model: str) -> None:
        network = load_model(model)
        if not isinstance(network, SubwordLM):
            raise ValueError(f"model must be a SubwordLM, {model!r} is a {type(network).__name__}")
        super().__init__(network.codec[0], network.start)
        self.model = network.requires_grad_(False).eval()

    @property
    def inputs(self) -> Tensor:
        return cast(Tensor, self.model.embedding.weight)

    @property
    def outputs(self) -> Tensor:
        return cast(Tensor, self.model.head.weight)

    def features(self, x: Tensor) -> Tensor:
        return self.model.backbone(x)


class TransformersBase(BaseLM):
    """A causal language model of ``transformers`` with a byte-level tokenizer.

    Args:
        model: A folder with the model and its ``tokenizer.json``.
        dtype: Of its weights, such as ``"bfloat16"``.

    Raises:
        FileNotFoundError: If the folder has no ``tokenizer.json``.
        ValueError: If the model does not say what documents begin with.
    """

    def __init__(self, model: str, dtype: str = "float32") -> None:
        from transformers import AutoModelForCausalLM

        network = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, dtype))
        if (start := network.config.bos_token_id) is None:
            raise ValueError(f"model must have a bos_token_id in its config, {model} has none")
        super().__init__(SubwordCodec.from_file(Path(model) / "tokenizer.json"), start)
        self.model = network.requires_grad_(False).eval()

    @property
    def inputs(self) -> Tensor:
        return self.model.get_input_embeddings().weight

    @property
    def outputs(self) -> Tensor:
        return self.model.get_output_embeddings().weight

    def features(self, x: Tensor) -> Tensor:
        inner = self.model.base_model
        return inner(inputs_embeds=x.to(self.inputs.dtype), use_cache=False).last_hidden_state
