"""Public image tokenizers to compare speed with: the classes of ``transformers``, in the configurations of cards of ours.

Janus (Wu et al., 2024) is LlamaGen's VQ-16, Chameleon (Chameleon Team, 2024) the same with attention only in the middle and
another codebook; its class only encodes. Both take over the weights of a ``VQGAN``, and must give its ids then.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from tokenizers_mm.codec import Codec
from tokenizers_mm.evaluation.contender import Contender, Peer
from tokenizers_mm.image.convert.layouts import our_name

SIDE = 256
"""Janus's decode knows one number of tokens; this is the side of the square images that it is built for."""


def _unavailable() -> str | None:
    return (
        None
        if find_spec("transformers") and int(version("transformers").split(".")[0]) >= 5
        else "transformers 5 is not installed: pip install tokenizers_mm[peers]"
    )


@torch.no_grad()
def adopt(model: Any, codec: Codec) -> None:
    """Copy a ``VQGAN``'s weights into the same network of ``transformers``.

    Codes of unit length are copied as such: the library compares with them as they are.
    """
    own = codec.state_dict()
    for key, tensor in model.state_dict().items():
        name = our_name(key).replace("post_quant_conv.", "quantizer.project_out.")
        name = name.replace("quant_conv.", "quantizer.project_in.")
        if found := re.fullmatch(r"(.+)\.([qkv])\.(weight|bias)", name):
            value = own[f"{found[1]}.qkv.{found[3]}"].chunk(3)["qkv".index(found[2])]
        else:
            value = codec.quantizer.codebook.codes if name == "codebook" else own[name]  # type: ignore[union-attr]
        tensor.copy_(value.reshape(tensor.shape))


def _contender(model: Any, decode: Callable[[Tensor], Tensor] | None) -> Contender:
    def encode(x: Tensor) -> Tensor:
        return model.encode(2 * x - 1).image_tokens.view(len(x), -1)

    def loss(x: Tensor) -> Tensor:
        z = model.post_quant_conv(model.quant_conv(model.encoder(2 * x - 1)))
        return F.l1_loss(model.decoder(z) / 2 + 0.5, x) if decode else z.square().mean()

    return Contender(
        model.eval(), None, 3, encode, decode, loss, None, (0.0, 1.0), partial(adopt, model), lambda ids: ids
    )


def _janus() -> Contender:
    from transformers import JanusVQVAEConfig
    from transformers.models.janus.modeling_janus import JanusVQVAE

    model: Any = JanusVQVAE(JanusVQVAEConfig(num_patches=SIDE // 16))
    return _contender(model, lambda ids: (model.decode(ids) / 2 + 0.5).clamp(0, 1))


def _chameleon() -> Contender:
    from transformers import ChameleonVQVAE, ChameleonVQVAEConfig

    return _contender(ChameleonVQVAE(ChameleonVQVAEConfig()), None)


PEERS: dict[str, Peer] = {
    "janus": Peer(f"JanusVQVAE of transformers (LlamaGen's VQ-16) for {SIDE}x{SIDE} pixels", _janus, _unavailable),
    "chameleon": Peer("ChameleonVQVAE of transformers, which only encodes", _chameleon, _unavailable),
}
