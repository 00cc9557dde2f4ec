"""Janus: LlamaGen's VQ-16 as Janus and Janus-Pro speak it, over ``transformers``' JanusVQVAE.

Wu et al., "Janus: Decoupling Visual Encoding for Unified Multimodal Understanding and Generation", 2024. The network is the
library's; images of any size, not only squares of 384 pixels, are padded to the grid and returned exactly. ``mmtok convert
janus`` gives the same network as a ``VQGAN``, which is faster and can be trained.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from tokenizers_mm.image.grid import image_spec, pad_to_grid, to_map
from tokenizers_mm.pretrained import TransformersCodec, from_transformers
from tokenizers_mm.tokens import Tokens


class JanusVQVAE(TransformersCodec):
    """RGB images to one grid of tokens and back; by default Janus-Pro's, one of 16,384 codes per 16x16 pixels.

    Args:
        codebook_size: Entries of the codebook.
        codebook_dim: Width of the codes.
        channels: Width that ``multipliers`` multiply.
        multipliers: Width of each level, highest resolution first; each level but the last halves the resolution.
        blocks: Residual blocks per level of the encoder; the decoder has one more.
        latent_channels: Channels of the encoder's output.

    Shape:
        ``x [B, 3, H, W]`` in [0, 1], any size; tokens ``[B, ceil(H / hop) * ceil(W / hop), 1]``, row-major.
    """

    signal_ndim = 4
    size_dims = 2
    signal_range = (0.0, 1.0)
    parts = ("model.vqmodel.", "vqmodel.")

    def __init__(
        self,
        codebook_size: int = 16384,
        codebook_dim: int = 8,
        channels: int = 128,
        multipliers: Sequence[int] = (1, 1, 2, 2, 4),
        blocks: int = 2,
        latent_channels: int = 256,
    ) -> None:
        super().__init__()
        config = from_transformers("JanusVQVAEConfig")(
            num_embeddings=codebook_size,
            embed_dim=codebook_dim,
            base_channels=channels,
            channel_multiplier=list(multipliers),
            num_res_blocks=blocks,
            latent_channels=latent_channels,
        )
        self.model = from_transformers("JanusVQVAE")(config)
        # The library compares with codes as they are and decodes their directions, which agree for codes of unit length
        codes = self.model.quantize.embedding.weight
        codes.data = F.normalize(nn.init.normal_(codes.data), dim=-1)
        self.hop = 2 ** (len(multipliers) - 1)
        self.spec = image_spec(codebook_size, self.hop)

    def _encode(self, x: Tensor, lengths: Tensor) -> Tokens:
        x = pad_to_grid(x, self.hop)
        ids = self.model.encode(2 * x - 1).image_tokens.view(len(x), -1, 1)
        grid = ids.new_tensor([side // self.hop for side in x.shape[-2:]])
        return Tokens(ids, self.spec, shapes=grid.expand(len(x), -1))

    def _decode(self, tokens: Tokens) -> Tensor:
        # as the library's own decode, which allows one grid only
        codes = F.normalize(self.model.quantize.embedding(tokens.ids[..., 0]), dim=-1)
        z = self.model.post_quant_conv(to_map(codes, int(tokens.shapes[0, 0])))
        return ((self.model.decoder(z) + 1) / 2).clamp(0, 1)
