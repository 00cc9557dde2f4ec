"""Chameleon's image tokenizer, over ``transformers``' ChameleonVQVAE, with the decoder that the library leaves out.

Chameleon Team, "Chameleon: Mixed-Modal Early-Fusion Foundation Models", 2024; the architecture is that of Gafni et al.,
"Make-A-Scene", 2022. The library's network only encodes, and so do checkpoints in its layout: ``decoder=False`` loads those. The
decoder here is the one that the authors' own file has beside them; ``mmtok convert taming`` turns that file into a ``VQGAN``,
faster both ways.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from tokenizers_mm.image.grid import image_spec, pad_to_grid, to_map
from tokenizers_mm.nn.resnet2d import Decoder2d
from tokenizers_mm.pretrained import TransformersCodec, from_transformers
from tokenizers_mm.tokens import Tokens
from tokenizers_mm.weights import read_part


class ChameleonVQVAE(TransformersCodec):
    """RGB images to one grid of tokens and back; by default Chameleon's, one of 8,192 codes per 16x16 pixels.

    Args:
        codebook_size: Entries of the codebook.
        codebook_dim: Width of the codes.
        channels: Width that ``multipliers`` multiply.
        multipliers: Width of each level, highest resolution first; each level but the last halves the resolution.
        blocks: Residual blocks per level of the encoder; the decoder has one more.
        latent_channels: Channels of the encoder's output.
        decoder: Have a decoder; checkpoints of ``transformers`` have none.

    Shape:
        ``x [B, 3, H, W]`` in [0, 1], any size; tokens ``[B, ceil(H / hop) * ceil(W / hop), 1]``, row-major.
    """

    signal_ndim = 4
    size_dims = 2
    signal_range = (0.0, 1.0)
    parts = ("model.vqmodel.", "vqmodel.")

    def __init__(
        self,
        codebook_size: int = 8192,
        codebook_dim: int = 256,
        channels: int = 128,
        multipliers: Sequence[int] = (1, 1, 2, 2, 4),
        blocks: int = 2,
        latent_channels: int = 256,
        decoder: bool = True,
    ) -> None:
        super().__init__()
        config = from_transformers("ChameleonVQVAEConfig")(
            num_embeddings=codebook_size,
            embed_dim=codebook_dim,
            base_channels=channels,
            channel_multiplier=list(multipliers),
            num_res_blocks=blocks,
            latent_channels=latent_channels,
        )
        self.model = from_transformers("ChameleonVQVAE")(config)
        if decoder:
            self.model.decoder = Decoder2d(
                latent_channels,
                channels,
                multipliers,
                blocks + 1,
                upsamples=len(multipliers) - 1,
                level_attention=False,
            )
        self.hop = 2 ** (len(multipliers) - 1)
        self.spec = image_spec(codebook_size, self.hop)

    def load_weights(self, path: str | Path, *, strict: bool = True) -> None:
        """As :meth:`TransformersCodec.load_weights`.

        Raises:
            ValueError: Also if the file has no decoder and this codec has one.
        """
        if hasattr(self.model, "decoder") and not any("decoder." in key for key in read_part(Path(path), self.parts)):
            raise ValueError(
                f"{path} has no decoder, as all Chameleon checkpoints of transformers: load them with decoder=False to encode "
                "only, or convert the authors' vqgan.ckpt: `mmtok convert taming vqgan.ckpt FOLDER`"
            )
        super().load_weights(path, strict=strict)

    def _encode(self, x: Tensor, lengths: Tensor) -> Tokens:
        x = pad_to_grid(x, self.hop)
        ids = self.model.encode(2 * x - 1).image_tokens.view(len(x), -1, 1)
        grid = ids.new_tensor([side // self.hop for side in x.shape[-2:]])
        return Tokens(ids, self.spec, shapes=grid.expand(len(x), -1))

    def _decode(self, tokens: Tokens) -> Tensor:
        if not hasattr(self.model, "decoder"):
            raise ValueError("this ChameleonVQVAE has no decoder: it was made with decoder=False")
        codes = self.model.quantize.embedding(tokens.ids[..., 0])
        z = self.model.post_quant_conv(to_map(codes, int(tokens.shapes[0, 0])))
        return ((self.model.decoder(z) + 1) / 2).clamp(0, 1)
