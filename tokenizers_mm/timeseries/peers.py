"""Public series tokenizers to compare speed with: the package of Chronos' authors, and TOTEM's network as published.

Chronos: Ansari et al., "Chronos: Learning the Language of Time Series", 2024. TOTEM: Talukder, Yue and Gkioxari, "TOTEM:
TOkenized Time Series EMbeddings for General Time Series Analysis", 2024, whose code is no package: its layers are laid out here,
one after the other as published, and take over a codec's weights. Both must give our ids.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any, cast

from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from tokenizers_mm.codec import Codec
from tokenizers_mm.evaluation.contender import Contender, Peer
from tokenizers_mm.timeseries.convert.totem import to_published
from tokenizers_mm.timeseries.scaling import EPSILON
from tokenizers_mm.timeseries.totem import TOTEM

WINDOW = 96
_LONGEST = 2**31 - 1  # context length, so that nothing is cut


def _without_chronos() -> str | None:
    return None if find_spec("chronos") else "its authors' package is not installed: pip install chronos-forecasting"


def _chronos() -> Contender:
    from chronos.chronos import ChronosConfig, MeanScaleUniformBins

    config = ChronosConfig(
        tokenizer_class="MeanScaleUniformBins",
        tokenizer_kwargs={"low_limit": -15.0, "high_limit": 15.0},
        context_length=_LONGEST,
        prediction_length=64,
        n_tokens=4096,
        n_special_tokens=2,
        pad_token_id=0,
        eos_token_id=1,
        use_eos_token=False,
        model_type="seq2seq",
        num_samples=20,
        temperature=1.0,
        top_k=50,
        top_p=1.0,
    )
    bins = MeanScaleUniformBins(-15.0, 15.0, config)

    def encode(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return bins.context_input_transform(x.flatten(0, 1))

    def decode(codes: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        return bins.output_transform(codes[0][:, None], codes[2])

    def loss(x: Tensor) -> Tensor:
        raise ValueError("bins have nothing to train")

    return Contender(nn.Module(), None, 1, encode, decode, loss, adopt=lambda codec: None, ids=lambda codes: codes[0])


class _Block(nn.Module):
    """Rectifies its input in place, so that the skip carries it rectified."""

    def __init__(self) -> None:
        super().__init__()
        self._block = nn.Sequential(
            nn.ReLU(inplace=True),
            nn.Conv1d(128, 64, 3, padding=1, bias=False),
            nn.ReLU(inplace=True),
            nn.Conv1d(64, 128, 1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self._block(x)


class _Stack(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self._layers = nn.ModuleList([_Block(), _Block()])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self._layers:
            x = layer(x)
        return F.relu(x)


class PublishedTOTEM(nn.Module):
    """TOTEM with factor 4 under the published names, without any contract: windows ``[n, 96]`` to ids and back."""

    def __init__(self) -> None:
        super().__init__()
        encoder: dict[str, nn.Module] = {
            "_conv_1": nn.Conv1d(1, 64, 4, 2, padding=1),
            "_conv_2": nn.Conv1d(64, 128, 4, 2, padding=1),
            "_conv_3": nn.Conv1d(128, 128, 3, padding=1),
            "_residual_stack": _Stack(),
            "_pre_vq_conv": nn.Conv1d(128, 64, 1),
        }
        decoder: dict[str, nn.Module] = {
            "_conv_1": nn.Conv1d(64, 128, 3, padding=1),
            "_residual_stack": _Stack(),
            "_conv_trans_1": nn.ConvTranspose1d(128, 64, 4, 2, padding=1),
            "_conv_trans_2": nn.ConvTranspose1d(64, 1, 4, 2, padding=1),
        }
        self.encoder, self.decoder = nn.ModuleDict(encoder), nn.ModuleDict(decoder)
        self.vq = nn.ModuleDict({"_embedding": nn.Embedding(256, 64)})

    def encode(self, windows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Ids ``[n, 24]``, means and deviations ``[n, 1]``."""
        mean = windows.mean(dim=-1, keepdim=True)
        deviation = (windows.var(dim=-1, keepdim=True, correction=0) + EPSILON).sqrt()
        part = self.encoder
        z = F.relu(part["_conv_1"](((windows - mean) / deviation)[:, None]))
        z = part["_residual_stack"](part["_conv_3"](F.relu(part["_conv_2"](z))))
        flat = rearrange(part["_pre_vq_conv"](z), "n d t -> (n t) d")
        codes = cast(nn.Embedding, self.vq["_embedding"]).weight
        distances = flat.square().sum(dim=1, keepdim=True) + codes.square().sum(dim=1) - 2 * flat @ codes.T
        return distances.argmin(dim=1).view(len(windows), -1), mean, deviation

    def decode(self, ids: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
        """Windows ``[n, 96]``."""
        part = self.decoder
        z = part["_conv_1"](rearrange(self.vq["_embedding"](ids), "n t d -> n d t"))
        y = part["_conv_trans_2"](F.relu(part["_conv_trans_1"](part["_residual_stack"](z))))
        return y[:, 0] * deviation + mean


def _totem() -> Contender:
    network = PublishedTOTEM().eval()

    def decode(codes: Any) -> Tensor:
        return network.decode(*codes).view(1, 1, -1)

    def loss(x: Tensor) -> Tensor:
        return F.l1_loss(decode(network.encode(x.view(-1, WINDOW))), x)

    def adopt(codec: Codec) -> None:
        assert isinstance(codec, TOTEM)
        network.load_state_dict(to_published(codec))

    return Contender(
        network,
        None,
        1,
        lambda x: network.encode(x.view(-1, WINDOW)),
        decode,
        loss,
        adopt=adopt,
        ids=lambda codes: codes[0].view(1, -1),
    )


def _nothing_missing() -> None:
    return None


PEERS: dict[str, Peer] = {
    "chronos-forecasting": Peer(
        "MeanScaleUniformBins of chronos-forecasting, 4,096 tokens", _chronos, _without_chronos
    ),
    "totem-published": Peer(
        "TOTEM's layers one after the other as published, all windows of 96 at once", _totem, _nothing_missing
    ),
}
