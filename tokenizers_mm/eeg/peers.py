"""Public EEG tokenizers to compare speed with: TFM-Tokenizer in the layers that its weights are published in.

Pradeepkumar et al., "Tokenizing Single-Channel EEG with Time-Frequency Motif Learning", ICLR 2026. Its transformers are those of
the package linear-attention-transformer, or the same in plain PyTorch where that is not installed. It takes over the weights of
a ``TFMTokenizer`` and must give its ids then.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tokenizers_mm.codec import Codec
from tokenizers_mm.eeg.convert.tfm import GATE, VALUE, tokenizer_name
from tokenizers_mm.evaluation.contender import Contender, Peer

PACKAGE = "linear_attention_transformer"


class PublishedTFM(nn.Module):
    """The published network under its published names, from microvolts ``[M, n]`` of 200 Hz to ids ``[M, T]``.

    Args:
        codebook_size: Entries K.
        decoder_layers: Layers from codes to spectra.
        plain: Transformers in plain PyTorch whether or not the package is there.
    """

    def __init__(self, codebook_size: int = 8192, decoder_layers: int = 8, *, plain: bool = False) -> None:
        super().__init__()
        transformer = partial(_Wrapped, plain=plain or find_spec(PACKAGE) is None)
        self.freq_patch_embedding = _convolutions(nn.Conv1d(1, 64, 5, 5), 64)
        self.trans_freq_encoder = transformer(2)
        self.freq_patch_embedding_2_atten = nn.Sequential(nn.Conv1d(64, 8, 5, 5), nn.Sigmoid())
        self.freq_patch_embedding_2 = nn.Sequential(nn.Conv1d(64, 8, 5, 5))
        self.temporal_patch_embedding = _convolutions(nn.Conv1d(1, 64, 200, 100), 32)
        self.trans_temporal_encoder = transformer(2)
        self.quantizer = _Codebook(codebook_size, 64)
        self.trans_decoder = transformer(decoder_layers)
        self.decoder = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 100))

    def features(self, x: Tensor) -> Tensor:
        """What is quantized, unit vectors ``[M, T, 64]``."""
        x = x / (torch.quantile(x.abs(), 0.95, dim=-1, keepdim=True) + 1e-8)
        spectra = torch.stft(x, 200, 100, window=torch.hann_window(200), center=False, return_complex=True).abs()
        steps = spectra[:, :100].permute(0, 2, 1)
        h = self.freq_patch_embedding(steps.reshape(-1, 1, 100)).permute(0, 2, 1)
        h = self.trans_freq_encoder(h).permute(0, 2, 1)
        h = self.freq_patch_embedding_2(h) * self.freq_patch_embedding_2_atten(h)
        samples = self.temporal_patch_embedding(x[:, None]).permute(0, 2, 1)
        both = torch.cat([h.reshape(len(x), -1, 32), samples], dim=-1)
        return F.normalize(self.trans_temporal_encoder(both), dim=-1)

    def encode(self, x: Tensor) -> Tensor:
        """Ids ``[M, T]`` of signals ``[M, n]``."""
        z = self.features(x).flatten(0, 1)
        codes = self.quantizer.embedding.weight
        distances = z.square().sum(1, keepdim=True) + codes.square().sum(1) - 2 * z @ codes.T
        return distances.argmin(dim=1).view(len(x), -1)

    def spectrum(self, codes: Tensor) -> Tensor:
        """STFT magnitudes ``[M, T, 100]`` of code vectors ``[M, T, 64]``."""
        return self.decoder(self.trans_decoder(codes))


class _Codebook(nn.Module):
    def __init__(self, codebook_size: int, dim: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(codebook_size, dim)
        self.register_buffer("cluster_size", torch.zeros(codebook_size))
        self.register_buffer("ema_w", torch.zeros(codebook_size, dim))


class _Wrapped(nn.Module):
    def __init__(self, depth: int, *, plain: bool) -> None:
        super().__init__()
        build = PlainTransformer if plain else import_module(PACKAGE).LinearAttentionTransformer
        self.transformer = build(dim=64, depth=depth, max_seq_len=1024, heads=8)

    def forward(self, x: Tensor) -> Tensor:
        return self.transformer(x)


class PlainTransformer(nn.Module):
    """The package's transformer in plain PyTorch, parameters under the package's names: ``[M, L, dim] -> [M, L, dim]``."""

    def __init__(self, dim: int, depth: int, max_seq_len: int, heads: int) -> None:
        super().__init__()
        self.layers = nn.Module()
        self.layers.layers = nn.ModuleList(_layer(dim) for _ in range(depth))
        self.heads = heads

    def forward(self, x: Tensor) -> Tensor:
        for attend, feed in cast(Any, self.layers.layers):
            x = x + self._attention(attend.fn, attend.norm(x))
            x = x + feed.fn.fn.w2(F.gelu(feed.fn.fn.w1(feed.norm(x))))
        return x

    def _attention(self, layers: nn.ModuleDict, x: Tensor) -> Tensor:
        q, k, v = (layers[f"to_{name}"](x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for name in "qkv")
        context = k.softmax(dim=-2).mT @ v
        out = q.softmax(dim=-1) * q.shape[-1] ** -0.5 @ context
        return layers["to_out"](out.transpose(1, 2).flatten(2))


def _layer(dim: int) -> nn.ModuleList:
    projections = {f"to_{name}": nn.Linear(dim, dim, bias=name == "out") for name in ("q", "k", "v", "out")}
    feed = nn.ModuleDict({"fn": nn.ModuleDict({"w1": nn.Linear(dim, 4 * dim), "w2": nn.Linear(4 * dim, dim)})})
    return nn.ModuleList(
        nn.ModuleDict({"norm": nn.LayerNorm(dim), "fn": fn}) for fn in (nn.ModuleDict(projections), feed)
    )


def _convolutions(first: nn.Conv1d, out: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for conv in (first, nn.Conv1d(64, 64, 1), nn.Conv1d(64, out, 1)):
        layers += [conv, nn.GELU(), nn.GroupNorm(16, conv.out_channels)]
    return nn.Sequential(*layers)


@torch.no_grad()
def adopt(model: PublishedTFM, codec: Codec) -> None:
    """Copy a ``TFMTokenizer``'s weights into the published network."""
    own = codec.state_dict()
    for key, tensor in model.state_dict().items():
        name = tokenizer_name(key)
        if key.startswith((GATE, VALUE)):
            kind = key.rpartition(".")[2]
            value = own[f"frequency.aggregation.{kind}"].chunk(2)[0 if key.startswith(GATE) else 1]
            value = value.unflatten(1, (5, 64)).permute(0, 2, 1) if kind == "weight" else value
        elif ".0.fn.to_" in key and not key.rpartition(".")[0].endswith("out"):
            prefix, _, projection = name.rpartition(".0.fn.to_")
            value = own[f"{prefix}.attention.qkv.weight"].chunk(3)["qkv".index(projection[0])]
        else:
            value = own[name]
        tensor.copy_(value.reshape(tensor.shape))


def _contender(encode: Callable[[PublishedTFM, Tensor], Tensor], **options: bool) -> Contender:
    model = PublishedTFM(**options).eval()

    def loss(x: Tensor) -> Tensor:
        return model.spectrum(model.features(x.flatten(0, 1))).square().mean()

    return Contender(
        model,
        200,
        1,
        partial(encode, model),
        None,
        loss,
        adopt=partial(adopt, model),
        ids=lambda ids: ids.flatten(1),
    )


def _folded(model: PublishedTFM, x: Tensor) -> Tensor:
    return model.encode(x.flatten(0, 1)).unflatten(0, x.shape[:2])


def _one_by_one(model: PublishedTFM, x: Tensor) -> Tensor:
    return torch.stack([torch.cat([model.encode(channel[None]) for channel in item]) for item in x])


PEERS: dict[str, Peer] = {
    "tfm-published": Peer(
        "TFM-Tokenizer in its published layers, all channels of a batch folded into one",
        partial(_contender, _folded),
        lambda: None,
    ),
    "tfm-one-by-one": Peer(
        "TFM-Tokenizer in its published layers, channel by channel", partial(_contender, _one_by_one), lambda: None
    ),
}
