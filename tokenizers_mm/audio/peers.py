"""Public audio codecs to compare speed with, in their published configurations: the classes of ``transformers``, and of the
authors' own packages where those are installed.

EnCodec: Défossez et al., "High Fidelity Neural Audio Compression", 2022. DAC: Kumar et al., "High-Fidelity Audio Compression
with Improved RVQGAN", 2023. Mimi: Défossez et al., "Moshi: a speech-text foundation model for real-time dialogue", 2024. SNAC:
Siuzdak et al., "SNAC: Multi-Scale Neural Audio Codec", 2024. Vocos: Siuzdak, "Vocos: Closing the gap between time-domain and
Fourier-based neural vocoders", 2023.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tokenizers_mm.evaluation.contender import Contender, Peer


def _unavailable() -> str | None:
    return (
        None
        if find_spec("transformers") and int(version("transformers").split(".")[0]) >= 5
        else "transformers 5 is not installed: pip install tokenizers_mm[peers]"
    )


def _without_snac() -> str | None:
    return None if find_spec("snac") else "its authors' package is not installed: pip install snac"


def _without_vocos() -> str | None:
    return _unavailable() or (
        None if find_spec("vocos") else "its author's package is not installed: pip install vocos"
    )


def _contender(model: Any, encode: Callable, decode: Callable, network: Callable[[Tensor], Tensor]) -> Contender:
    def loss(x: Tensor) -> Tensor:
        y = network(x)
        n = min(x.shape[-1], y.shape[-1])
        return F.l1_loss(y[..., :n], x[..., :n])

    return Contender(model.eval(), model.config.sampling_rate, 1, encode, decode, loss)


def _encodec() -> Contender:
    from transformers import EncodecConfig, EncodecModel

    model: Any = EncodecModel(EncodecConfig())
    return _contender(
        model,
        lambda x: model.encode(x, bandwidth=6.0),
        lambda codes: model.decode(codes.audio_codes, codes.audio_scales).audio_values,
        lambda x: model.decoder(model.encoder(x)),
    )


def _dac() -> Contender:
    from transformers import DacConfig, DacModel

    config = DacConfig(sampling_rate=24000, downsampling_ratios=[2, 4, 5, 8], n_codebooks=32)
    model: Any = DacModel(config)
    return _contender(
        model,
        lambda x: model.encode(x),
        lambda codes: model.decode(audio_codes=codes.audio_codes).audio_values,
        lambda x: model.decoder(model.encoder(x)),
    )


def _mimi() -> Contender:
    from transformers import MimiConfig, MimiModel

    model: Any = MimiModel(MimiConfig())
    return _contender(
        model,
        lambda x: model.encode(x, num_quantizers=8),
        lambda codes: model.decode(codes.audio_codes).audio_values,
        lambda x: model.decoder(model.encoder(x)[0]).audio_values,
    )


def _snac() -> Contender:
    from snac import SNAC

    model: Any = SNAC(
        sampling_rate=24000,
        encoder_dim=48,
        encoder_rates=[2, 4, 8, 8],
        decoder_dim=1024,
        decoder_rates=[8, 8, 4, 2],
        attn_window_size=None,
        vq_strides=[4, 2, 1],
    ).eval()
    return Contender(model, model.sampling_rate, 1, model.encode, model.decode, lambda x: F.l1_loss(model(x)[0], x))


def _vocos() -> Contender:
    from transformers import EncodecConfig, EncodecModel
    from vocos.heads import ISTFTHead
    from vocos.models import VocosBackbone

    encodec: Any = EncodecModel(EncodecConfig())
    backbone = VocosBackbone(128, dim=384, intermediate_dim=1152, num_layers=8, adanorm_num_embeddings=4)
    head = ISTFTHead(dim=384, n_fft=1280, hop_length=320, padding="same")
    bandwidth = torch.tensor([2])  # the third: 6 kbit/s

    def decode(codes: Any) -> Tensor:
        features = encodec.quantizer.decode(codes.audio_codes[0].transpose(0, 1))
        return head(backbone(features, bandwidth_id=bandwidth))[:, None]

    def vocode(x: Tensor) -> Tensor:
        return head(backbone(encodec.encoder(x), bandwidth_id=bandwidth))[:, None]

    model = nn.ModuleDict({"encodec": encodec, "backbone": backbone, "head": head}).eval()
    model.config = encodec.config
    return _contender(model, lambda x: encodec.encode(x, bandwidth=6.0), decode, vocode)


PEERS: dict[str, Peer] = {
    "encodec-24k": Peer("EncodecModel of transformers, 24 kHz, 8 codebooks (6 kbit/s)", _encodec, _unavailable),
    "dac-24k": Peer("DacModel of transformers, 24 kHz, 32 codebooks (24 kbit/s)", _dac, _unavailable),
    "snac-24k": Peer("SNAC of its authors' package, 24 kHz, 3 levels (1 kbit/s)", _snac, _without_snac),
    "vocos-24k": Peer("Vocos of its author's package on EnCodec's tokens at 6 kbit/s", _vocos, _without_vocos),
    "mimi-24k": Peer("MimiModel of transformers, 24 kHz, 8 codebooks (1.1 kbit/s)", _mimi, _unavailable),
}
