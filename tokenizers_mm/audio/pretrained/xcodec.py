"""X-Codec, X-codec2 and NeuCodec: speech tokens that hear meaning as well as sound, over their classes in ``transformers``.

Ye et al., "Codec Does Matter: Exploring the Semantic Shortcoming of Codec for Audio Language Model", 2024 (X-Codec). Ye et al.,
"Llasa: Scaling Train-Time and Inference-Time Compute for Llama-based Speech Synthesis", 2025 (X-codec2). Julian et al., "Finite
Scalar Quantization Enables Redundant and Transmission-Robust Neural Audio Compression at Low Bit-rates", 2025 (NeuCodec).
Each runs a speech model of hundreds of megabytes (HuBERT, WavLM or w2v-BERT 2.0) inside its encoder; its weights are part of the
codec's. The library has no training forward for any of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from tokenizers_mm.pretrained import TransformersCodec, from_transformers
from tokenizers_mm.tokens import Tokens, TokenSpec

MODEL_RATE = 16000
"""Hz that the encoders of X-codec2 and NeuCodec take; their features come from a 16 kHz filter bank."""


class XCodec(TransformersCodec):
    """16 kHz audio to residual codebooks over acoustic (DAC) and semantic (HuBERT or WavLM) features together.

    Args:
        num_codebooks: Residual codebooks; the published 8 make 4 kbit/s.
        codebook_size: Entries of each.
        acoustic: ``DacConfig`` fields besides the published ones; ``downsampling_ratios`` decide the hop.
        semantic: Configuration of the semantic model, its ``model_type`` among the fields; by default HuBERT base. Its frames
            must be one hop apart.

    Shape:
        ``x [B, 1, N]`` in [-1, 1]; tokens ``[B, ceil(N / hop), Q]``.
    """

    def __init__(
        self,
        num_codebooks: int = 8,
        codebook_size: int = 1024,
        acoustic: Mapping[str, Any] | None = None,
        semantic: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.model, self.spec = residual_model("Xcodec", MODEL_RATE, num_codebooks, codebook_size, acoustic, semantic)

    def _encode(self, x: Tensor, lengths: Tensor) -> Tokens:
        return encode_residual(self.model, self.spec, x)

    def _decode(self, tokens: Tokens) -> Tensor:
        return self.model.decode(tokens.codes, return_dict=False)


class XCodec2(TransformersCodec):
    """16 kHz speech to one codebook of 65,536 entries, 50 tokens/s (0.8 kbit/s).

    The published encoder pads a signal of whole hops with one more; that step is dropped, so the other ids are the published
    ones and N samples are ``ceil(N / hop)`` steps.

    Args:
        levels: Values of each scalar of the finite scalar quantizer; their product is the codebook's size.
        strides: Down-sampling of the acoustic encoder's stages, in the order applied; their product is the hop, 320 for the
            semantic model's frames to match.
        network: Other fields of ``Xcodec2Config`` (widths, layers, ``semantic_model_config``) in place of the published ones.

    Shape:
        ``x [B, 1, N]`` in [-1, 1]; tokens ``[B, ceil(N / hop), 1]``.
    """

    def __init__(
        self,
        levels: Sequence[int] = (4,) * 8,
        strides: Sequence[int] = (2, 2, 4, 4, 5),
        network: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.model = _scalar_model("Xcodec2", levels, strides, network)
        self.hop_length = math.prod(strides)
        self.extract = from_transformers("Xcodec2FeatureExtractor")(hop_length=self.hop_length)
        self.spec = TokenSpec(
            modality="audio", codebook_sizes=(math.prod(levels),), hop=(self.hop_length,), sample_rate=MODEL_RATE
        )

    def _encode(self, x: Tensor, lengths: Tensor) -> Tokens:
        codes = _encode_scalar(self.model, self.extract, x)[..., : self.spec.steps(x.shape[-1])]
        return Tokens(rearrange(codes, "b q t -> b t q"), self.spec)

    def _decode(self, tokens: Tokens) -> Tensor:
        return self.model.decode(tokens.codes).audio_values


class NeuCodec(TransformersCodec):
    """Speech to one codebook of 65,536 entries, 50 tokens/s (0.8 kbit/s), the samples decoded at 24 kHz.

    The published network hears 16 kHz and speaks 24 kHz. A codec's signals have one rate, so one side is resampled: at 24 kHz the
    input on its way in (as the authors' program does with any recording), at 16 kHz the output. Ids are the same tokens of
    the same model either way. Signals are padded with zeros to whole hops first, where the published encoder drops the rest.

    Args:
        sample_rate: Of the signals on both sides, in Hz.
        levels: Values of each scalar of the finite scalar quantizer; their product is the codebook's size.
        strides: Down-sampling of the acoustic encoder's stages, in the order applied; their product is the hop at 16 kHz, 320 for
            the semantic model's frames to match.
        network: Other fields of ``NeuCodecConfig`` (widths, layers, ``semantic_model_config``) in place of the published ones.

    Shape:
        ``x [B, 1, N]`` in [-1, 1]; tokens ``[B, ceil(N / hop), 1]``.

    Raises:
        ValueError: If a step is not a whole number of samples at ``sample_rate``.
    """

    def __init__(
        self,
        sample_rate: int = 24000,
        levels: Sequence[int] = (4,) * 8,
        strides: Sequence[int] = (2, 2, 4, 4, 5),
        network: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        hop = Fraction(math.prod(strides) * sample_rate, MODEL_RATE)
        if hop.denominator != 1:
            raise ValueError(
                f"sample_rate must make a step of {1000 * hop / sample_rate} ms whole samples, got {sample_rate} Hz"
            )
        self.model = _scalar_model("NeuCodec", levels, strides, network)
        self.output_rate = int(self.model.config.output_sampling_rate)
        self.hop_length = math.prod(strides)
        self.extract = from_transformers("NeuCodecFeatureExtractor")(hop_length=self.hop_length)
        self.spec = TokenSpec(
            modality="audio", codebook_sizes=(math.prod(levels),), hop=(int(hop),), sample_rate=sample_rate
        )

    def _encode(self, x: Tensor, lengths: Tensor) -> Tokens:
        samples = self.spec.steps(x.shape[-1]) * self.hop_length
        x = self._resample(x, int(self.spec.sample_rate or 0), MODEL_RATE)
        codes = _encode_scalar(self.model, self.extract, F.pad(x, (0, samples - x.shape[-1])))
        return Tokens(rearrange(codes, "b q t -> b t q"), self.spec)

    def _decode(self, tokens: Tokens) -> Tensor:
        return self._resample(
            self.model.decode(tokens.codes).audio_values, self.output_rate, int(self.spec.sample_rate or 0)
        )

    @staticmethod
    def _resample(x: Tensor, from_rate: int, to_rate: int) -> Tensor:
        from tokenizers_mm.audio.files import resample

        return resample(x, from_rate, to_rate)


def residual_model(
    family: str,
    sample_rate: int,
    num_codebooks: int,
    codebook_size: int,
    acoustic: Mapping[str, Any] | None,
    semantic: Mapping[str, Any] | None,
    **fields: Any,
) -> tuple[nn.Module, TokenSpec]:
    """A model of X-Codec's kind with random weights, and the spec of its tokens.

    Args:
        family: Start of the names of its classes in ``transformers``.
        sample_rate: Hz.
        num_codebooks: Residual codebooks.
        codebook_size: Entries of each.
        acoustic: ``DacConfig`` fields in place of the family's.
        semantic: Configuration of the semantic model, ``model_type`` among its fields; None for the family's.
        **fields: Of the family's configuration.
    """
    config = from_transformers(f"{family}Config")(
        sample_rate=sample_rate,
        codebook_size=codebook_size,
        acoustic_model_config={"model_type": "dac", **(acoustic or {})},
        semantic_model_config=dict(semantic) if semantic else None,
        **fields,
    )
    # The library derives the number of codebooks from a rate, rounding down: half a codebook more is safe from rounding.
    config.target_bandwidths = [(num_codebooks + 0.5) * config.frame_rate * config.codebook_nbits / 1000]
    model = from_transformers(f"{family}Model")(config)
    for quantizer in model.quantizer.quantizers:  # zero by default, which would make every random token 0
        nn.init.normal_(quantizer.codebook.embed)
    spec = TokenSpec(
        modality="audio",
        codebook_sizes=(codebook_size,) * num_codebooks,
        hop=(config.hop_length,),
        sample_rate=sample_rate,
        scalable="columns",
    )
    return model, spec


def encode_residual(model: Any, spec: TokenSpec, x: Tensor) -> Tokens:
    """Tokens of signals ``[B, 1, N]`` of equal length, padded with zeros to whole hops; the first columns of ``spec``."""
    x = F.pad(x, (0, -x.shape[-1] % model.config.hop_length))
    codes = model.encode(x, return_dict=False)[:, : spec.num_codebooks]
    return Tokens(rearrange(codes, "b q t -> b t q"), spec)


def _scalar_model(family: str, levels: Sequence[int], strides: Sequence[int], network: Mapping[str, Any] | None) -> Any:
    config = from_transformers(f"{family}Config")(
        quantization_levels=list(levels), downsampling_ratios=list(strides), **(network or {})
    )
    return from_transformers(f"{family}Model")(config)


def _encode_scalar(model: Any, extract: Any, x: Tensor) -> Tensor:
    """Codes ``[B, 1, T]`` of signals ``[B, 1, N]`` of equal length; the library's feature extractor runs on the CPU."""
    inputs = extract(list(x[:, 0].float().cpu()), sampling_rate=MODEL_RATE, return_tensors="pt").to(x.device)
    return model.encode(
        inputs["input_values"].to(x.dtype),
        inputs["input_features"].to(x.dtype),
        padding_mask=inputs["padding_mask"],
        input_features_mask=inputs["input_features_mask"],
    ).audio_codes
