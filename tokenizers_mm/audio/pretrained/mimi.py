"""Mimi: 24 kHz speech in 12.5 steps per second, one semantic and up to 31 acoustic codebooks, over ``transformers``' MimiModel.

Défossez et al., "Moshi: a speech-text foundation model for real-time dialogue", 2024. The network is the library's. Ours are
exact streaming both ways (the library's decoder keeps no state between calls) and the authors' rule for lengths: a signal is
padded with zeros to whole steps, where the library pads features inside the network; so the last step of a signal that ends
within it equals the original program's and can differ from the library's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Self, cast

import torch
from einops import rearrange
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn
from torch.nn import functional as F

from tokenizers_mm.audio.pretrained import causal
from tokenizers_mm.nn.conv import StreamState
from tokenizers_mm.pretrained import TransformersCodec, from_transformers
from tokenizers_mm.tokens import Tokens, TokenSpec

# The hub's flat layout -> the library's two halves: prefixes.
HALVES = (
    ("encoder.layers.", "encoder.encoder_seanet.layers."),
    ("encoder_transformer.", "encoder.encoder_transformer."),
    ("downsample.", "encoder.downsample."),
    ("upsample.", "decoder.upsample."),
    ("decoder_transformer.", "decoder.decoder_transformer."),
    ("decoder.layers.", "decoder.decoder_seanet.layers."),
)


class Mimi(TransformersCodec):
    """Mono speech to split residual codebooks and back, causal; by default the published model with Moshi's 8 codebooks.

    Any first codebooks of the network's 32 decode; the very first is the semantic one, distilled from WavLM in its training.

    Args:
        num_codebooks: Codebooks that tokens have; the network keeps all of its own.
        network: ``MimiConfig`` fields in place of the published ones.

    Shape:
        ``x [B, 1, N]`` in [-1, 1]; tokens ``[B, ceil(N / 1920), num_codebooks]``.

    Raises:
        ValueError: If ``network`` has an unknown or impossible field, or fewer codebooks than asked for.

    Source:
        https://github.com/kyutai-labs/moshi
    """

    def __init__(self, num_codebooks: int = 8, network: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        config = _network_config(network or {})
        if not 1 <= num_codebooks <= config.num_quantizers:
            raise ValueError(f"num_codebooks must be 1 to the network's {config.num_quantizers}, got {num_codebooks}")
        self.model = from_transformers("MimiModel")(config)
        self.hop_length = int(config.frame_size)
        self.padding_safe = bool(config.use_causal_conv)
        self.spec = TokenSpec(
            modality="audio",
            codebook_sizes=(config.codebook_size,) * num_codebooks,
            hop=(self.hop_length,),
            sample_rate=config.sampling_rate,
            channels=config.audio_channels,
            scalable="columns",
        )
        for codebook in _codebooks(self):  # zero by default, which would make every random token 0
            nn.init.normal_(codebook.embed_sum)
        with torch.no_grad():  # random weights decode to about [-1, 1] then
            self.model.decoder.decoder_seanet.layers[-1].conv.weight.mul_(0.05)
        self.register_load_state_dict_post_hook(_forget_tables)

    # -- whole signals -----------------------------------------------------------------------------------------------------

    def _encode(self, x: Tensor, lengths: Tensor) -> Tokens:
        x = F.pad(x, (0, -x.shape[-1] % self.hop_length))
        ids = self._ids(self.model.encoder(x).latents)
        return Tokens(ids, self.spec, shapes=-(-lengths // self.hop_length)[:, None])

    def _decode(self, tokens: Tokens) -> Tensor:
        return self.model.decode(tokens.codes).audio_values

    def _ids(self, latents: Tensor) -> Tensor:
        columns, quantizer = self.spec.num_codebooks, self.model.quantizer
        codes = quantizer.encode(latents, max(columns, quantizer.num_semantic_quantizers))
        return rearrange(codes[:columns], "q b t -> b t q")

    # -- streaming ---------------------------------------------------------------------------------------------------------

    @property
    def streamable(self) -> bool:
        config = self.model.config
        return bool(
            config.use_causal_conv and config.trim_right_ratio == 1 and config.pad_mode in ("constant", "replicate")
        )

    def _encode_step(self, x: Tensor, state: StreamState) -> Tensor:
        encoder = self.model.encoder
        h = causal.run(encoder.encoder_seanet.layers, x, state)
        h = _attend(encoder.encoder_transformer, h, state)
        return self._ids(causal.run([encoder.downsample], h, state))

    def _decode_step(self, ids: Tensor, state: StreamState, *, last: bool) -> Tensor:
        if not ids.shape[1]:  # nothing is held back
            return torch.zeros(len(ids), self.spec.channels, 0, device=ids.device, dtype=self.model.dtype)
        decoder = self.model.decoder
        h = causal.run([decoder.upsample], self.model.quantizer.decode(rearrange(ids, "b t q -> b q t")), state)
        return causal.run(decoder.decoder_seanet.layers, _attend(decoder.decoder_transformer, h, state), state)

    @property
    def heads(self) -> int:
        """Attention heads of both transformers."""
        return int(self.model.config.num_attention_heads)

    # -- weights -----------------------------------------------------------------------------------------------------------

    def _from_hub(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        def rename(key: str) -> str:
            return next((new + key.removeprefix(old) for old, new in HALVES if key.startswith(old)), key)

        return {rename(key): tensor for key, tensor in super()._from_hub(tensors).items()}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        _forget_tables(self)
        return super()._apply(fn, recurse)


def _codebooks(codec: nn.Module) -> list[Any]:
    return [module for module in codec.modules() if hasattr(module, "embed_sum")]


def _forget_tables(codec: nn.Module, *_: object) -> None:
    """The library computes each codebook's table once, and would keep it when weights are loaded or moved after."""
    for codebook in _codebooks(codec):
        codebook._embed = None


def _network_config(network: Mapping[str, Any]) -> Any:
    make = from_transformers("MimiConfig")
    if unknown := sorted(set(network) - set(make().to_dict())):
        raise ValueError(f"network must hold fields of MimiConfig, got {', '.join(unknown)}")
    try:
        return make(**network)
    except StrictDataclassError as error:
        raise ValueError(f"network: {' '.join(str(error).split())}") from None


def _attend(transformer: Any, h: Tensor, state: StreamState) -> Tensor:
    """The next features ``[B, D, n]`` of a stream through windowed attention; its keys and values are kept for one window."""
    caches = cast(dict[nn.Module, Any], state)
    if transformer not in caches:
        caches[transformer] = from_transformers("DynamicCache")(config=transformer.config)
    hidden = transformer(h.mT, past_key_values=caches[transformer], use_cache=True).last_hidden_state
    return hidden.mT
