"""Published networks written out in their own names, one function each; weights are drawn as they are first used.

One pass of a function over a :class:`Weights` therefore makes a checkpoint of that layout and what it computes, with nothing
of the package in between.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


class Weights(dict[str, Tensor]):
    """A checkpoint that grows: a tensor that is asked for by a new name is drawn."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(seed)

    def draw(self, name: str, *shape: int, scale: float = 1.0, offset: float = 0.0) -> Tensor:
        if name not in self:
            self[name] = offset + scale * torch.randn(shape, generator=self.generator)
        return self[name]

    def conv(self, x: Tensor, name: str, channels: int, size: int = 3, *, bias: bool = True, **options: int) -> Tensor:
        weight = self.draw(f"{name}.weight", channels, x.shape[1], size, size, scale=(x.shape[1] * size**2) ** -0.5)
        shift = self.draw(f"{name}.bias", channels, scale=0.1) if bias else None
        return F.conv2d(x, weight, shift, **{"padding": size // 2, **options})

    def linear(self, x: Tensor, name: str, width: int) -> Tensor:
        weight = self.draw(f"{name}.weight", width, x.shape[-1], scale=x.shape[-1] ** -0.5)
        return F.linear(x, weight, self.draw(f"{name}.bias", width, scale=0.1))

    def group_norm(self, x: Tensor, name: str) -> Tensor:
        return F.group_norm(x, 32, *self._affine(name, x.shape[1]), eps=1e-6)

    def layer_norm(self, x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], *self._affine(name, x.shape[-1]))

    def activated(self, x: Tensor, name: str) -> Tensor:
        x = self.group_norm(x, name)
        return x * torch.sigmoid(x)

    def _affine(self, name: str, width: int) -> tuple[Tensor, Tensor]:
        return self.draw(f"{name}.weight", width, scale=0.1, offset=1), self.draw(f"{name}.bias", width, scale=0.1)


# -- Open-MAGVIT2 and MaskGIT's VQGAN --------------------------------------------------------------------------------------


def bias_free_block(w: Weights, x: Tensor, name: str, channels: int, *, skip_output: bool) -> Tensor:
    h = w.conv(w.activated(x, f"{name}.norm1"), f"{name}.conv1", channels, bias=False)
    h = w.conv(w.activated(h, f"{name}.norm2"), f"{name}.conv2", channels, bias=False)
    if x.shape[1] == channels:
        return x + h
    return h + w.conv(h if skip_output else x, f"{name}.nin_shortcut", channels, 1, bias=False)


def magvit2_encode(w: Weights, x: Tensor, widths: list[int], blocks: int, bits: int) -> Tensor:
    h = w.conv(2 * x - 1, "encoder.conv_in", widths[0], bias=False)
    for level, width in enumerate(widths):
        for b in range(blocks):
            h = bias_free_block(w, h, f"encoder.down.{level}.block.{b}", width, skip_output=False)
        if level < len(widths) - 1:
            h = w.conv(h, f"encoder.down.{level}.downsample", width, stride=2)
    for b in range(blocks):
        h = bias_free_block(w, h, f"encoder.mid_block.{b}", widths[-1], skip_output=False)
    return w.conv(w.activated(h, "encoder.norm_out"), "encoder.conv_out", bits, 1)


def magvit2_decode(w: Weights, z: Tensor, widths: list[int], blocks: int) -> Tensor:
    h = w.conv(z, "decoder.conv_in", widths[-1])
    for b in range(blocks):
        h = bias_free_block(w, h, f"decoder.mid_block.{b}", widths[-1], skip_output=False)
    flat = z.flatten(2)
    spread = (((flat - flat.mean(-1, keepdim=True)) ** 2).sum(-1) / (flat.shape[-1] - 1) + 1e-6).sqrt()
    for level in range(len(widths) - 1, -1, -1):
        scale = w.linear(spread, f"decoder.adaptive.{level}.gamma", h.shape[1])
        shift = w.linear(flat.mean(-1), f"decoder.adaptive.{level}.beta", h.shape[1])
        h = scale[..., None, None] * F.group_norm(h, 32, eps=1e-6) + shift[..., None, None]
        for b in range(blocks):
            h = bias_free_block(w, h, f"decoder.up.{level}.block.{b}", widths[level], skip_output=False)
        if level:
            h = w.conv(h, f"decoder.up.{level}.upsample.conv1", 4 * widths[level])
            batch, channels, height, width = h.shape
            h = h.reshape(batch, 2, 2, channels // 4, height, width).permute(0, 3, 4, 1, 5, 2)
            h = h.reshape(batch, channels // 4, 2 * height, 2 * width)
    return (w.conv(w.activated(h, "decoder.norm_out"), "decoder.conv_out", 3) + 1) / 2


def maskgit_encode(w: Weights, x: Tensor, widths: list[int], blocks: int, dim: int) -> Tensor:
    h = w.conv(x, "encoder.conv_in", widths[0], bias=False)
    for level, width in enumerate(widths):
        for b in range(blocks):
            h = bias_free_block(w, h, f"encoder.down.{level}.block.{b}", width, skip_output=True)
        if level < len(widths) - 1:
            h = (h[..., ::2, ::2] + h[..., 1::2, ::2] + h[..., ::2, 1::2] + h[..., 1::2, 1::2]) / 4
    for b in range(blocks):
        h = bias_free_block(w, h, f"encoder.mid.{b}", widths[-1], skip_output=True)
    return w.conv(w.activated(h, "encoder.norm_out"), "encoder.conv_out", dim, 1)


def maskgit_decode(w: Weights, z: Tensor, widths: list[int], blocks: int, name: str = "decoder") -> Tensor:
    h = w.conv(z, f"{name}.conv_in", widths[-1])
    for b in range(blocks):
        h = bias_free_block(w, h, f"{name}.mid.{b}", widths[-1], skip_output=True)
    for level in range(len(widths) - 1, -1, -1):
        for b in range(blocks):
            h = bias_free_block(w, h, f"{name}.up.{level}.block.{b}", widths[level], skip_output=True)
        if level:
            h = h.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
            h = w.conv(h, f"{name}.up.{level}.upsample_conv", widths[level])
    return w.conv(w.activated(h, f"{name}.norm_out"), f"{name}.conv_out", 3)


def nearest(z: Tensor, codebook: Tensor) -> Tensor:
    """Index of the nearest row for vectors ``[..., D]``, in float64."""
    return torch.cdist(z.double().flatten(0, -2), codebook.double()).argmin(-1).reshape(z.shape[:-1])


# -- TiTok -----------------------------------------------------------------------------------------------------------------


def transformer(w: Weights, x: Tensor, name: str, layers: int, heads: int) -> Tensor:
    x = w.layer_norm(x, f"{name}.ln_pre").transpose(0, 1)
    width = x.shape[-1]
    for layer in range(layers):
        block = f"{name}.transformer.{layer}"
        h = w.layer_norm(x, f"{block}.ln_1")
        projection = w.draw(f"{block}.attn.in_proj_weight", 3 * width, width, scale=width**-0.5)
        shift = w.draw(f"{block}.attn.in_proj_bias", 3 * width, scale=0.1)
        out = w.draw(f"{block}.attn.out_proj.weight", width, width, scale=width**-0.5)
        out_shift = w.draw(f"{block}.attn.out_proj.bias", width, scale=0.1)
        h, _ = F.multi_head_attention_forward(
            h, h, h, width, heads, projection, shift, None, None, False, 0.0, out, out_shift, training=False
        )
        x = x + h
        h = F.gelu(w.linear(w.layer_norm(x, f"{block}.ln_2"), f"{block}.mlp.c_fc", 4 * width))
        x = x + w.linear(h, f"{block}.mlp.c_proj", width)
    return x.transpose(0, 1)


def titok_encode(
    w: Weights, x: Tensor, tokens: int, width: int, layers: int, heads: int, dim: int, mix: bool
) -> Tensor:
    patches = w.conv(x, "encoder.patch_embed", width, 16, stride=16, padding=0).flatten(2).transpose(1, 2)
    cls = w.draw("encoder.class_embedding", 1, width).expand(len(x), 1, width)
    seen = torch.cat([cls, patches], 1) + w.draw("encoder.positional_embedding", patches.shape[1] + 1, width)
    latents = w.draw("latent_tokens", tokens, width)
    latents = latents + w.draw("encoder.latent_token_positional_embedding", tokens, width)
    states = transformer(w, torch.cat([seen, latents.expand(len(x), -1, -1)], 1), "encoder", layers, heads)
    h = w.layer_norm(states[:, -tokens:], "encoder.ln_post")
    h = h.reshape(len(x), width, tokens, 1) if mix else h.transpose(1, 2)[..., None]
    return w.conv(h, "encoder.conv_out", dim, 1).flatten(2).transpose(1, 2)


def titok_decode(
    w: Weights, codes: Tensor, side: int, width: int, layers: int, heads: int, maskgit: dict | None
) -> Tensor:
    latents = w.linear(codes, "decoder.decoder_embed", width)
    latents = latents + w.draw("decoder.latent_token_positional_embedding", codes.shape[1], width)
    places = w.draw("decoder.mask_token", 1, 1, width).expand(len(codes), side**2, width)
    places = torch.cat([w.draw("decoder.class_embedding", 1, width).expand(len(codes), 1, width), places], 1)
    places = places + w.draw("decoder.positional_embedding", side**2 + 1, width)
    states = transformer(w, torch.cat([places, latents], 1), "decoder", layers, heads)[:, 1 : side**2 + 1]
    h = w.layer_norm(states, "decoder.ln_post").transpose(1, 2).reshape(len(codes), width, side, side)
    if maskgit is None:
        h = w.conv(h, "decoder.ffn.0", 768, 1).reshape(len(codes), 16, 16, 3, side, side)
        return w.conv(h.permute(0, 3, 4, 1, 5, 2).reshape(len(codes), 3, 16 * side, 16 * side), "decoder.conv_out", 3)
    entries, dim = maskgit["codebook_size"], maskgit["dim"]
    logits = w.conv(torch.tanh(w.conv(h, "decoder.ffn.0", 2 * width, 1)), "decoder.ffn.2", entries, 1)
    codebook = w.draw("pixel_quantize.embedding.weight", entries, dim)
    z = torch.einsum("nchw,cd->ndhw", logits.softmax(1), codebook)
    return maskgit_decode(w, z, maskgit["widths"], maskgit["blocks"], "pixel_decoder")


# -- Cosmos ----------------------------------------------------------------------------------------------------------------

LOW, HIGH = torch.tensor([1.0, 1.0]) / 2**0.5, torch.tensor([1.0, -1.0]) / 2**0.5


def haar(x: Tensor) -> Tensor:
    """Two rounds of the transform, by filters along rows and then columns."""
    for _ in range(2):
        kinds = []
        for horizontal in (LOW, HIGH):
            for vertical in (LOW, HIGH):
                kernel = (vertical[:, None] * horizontal[None]).expand(x.shape[1], 1, 2, 2)
                kinds.append(F.conv2d(x, kernel, stride=2, groups=x.shape[1]) / 2)
        x = torch.cat(kinds, 1)
    return x


def inverse_haar(x: Tensor) -> Tensor:
    for _ in range(2):
        total, kinds = torch.zeros(()), iter(x.chunk(4, 1))
        for horizontal in (LOW, HIGH):
            for vertical in (LOW, HIGH):
                kind = next(kinds)
                kernel = (vertical[:, None] * horizontal[None]).expand(kind.shape[1], 1, 2, 2)
                total = total + 2 * F.conv_transpose2d(kind, kernel, stride=2, groups=kind.shape[1])
        x = total
    return x


def taming_block(w: Weights, x: Tensor, name: str, channels: int) -> Tensor:
    h = w.conv(w.activated(x, f"{name}.norm1"), f"{name}.conv1", channels)
    h = w.conv(w.activated(h, f"{name}.norm2"), f"{name}.conv2", channels)
    return h + (x if x.shape[1] == channels else w.conv(x, f"{name}.nin_shortcut", channels, 1))


def taming_middle(w: Weights, x: Tensor, name: str) -> Tensor:
    channels = x.shape[1]
    x = taming_block(w, x, f"{name}.block_1", channels)
    h = w.group_norm(x, f"{name}.attn_1.norm")
    q, k, v = (w.conv(h, f"{name}.attn_1.{part}", channels, 1).flatten(2) for part in "qkv")
    attention = (torch.einsum("bcq,bck->bqk", q, k) * channels**-0.5).softmax(-1)
    h = torch.einsum("bqk,bck->bcq", attention, v).reshape(x.shape)
    return taming_block(w, x + w.conv(h, f"{name}.attn_1.proj_out", channels, 1), f"{name}.block_2", channels)


def cosmos_encode(w: Weights, x: Tensor, channels: int, multipliers: list[int], halvings: int, dim: int) -> Tensor:
    h = w.conv(haar(2 * x - 1), "encoder.conv_in", channels)
    for level, multiplier in enumerate(multipliers):
        for b in range(2):
            h = taming_block(w, h, f"encoder.down.{level}.block.{b}", channels * multiplier)
        if level < halvings:
            h = w.conv(F.pad(h, (0, 1, 0, 1)), f"encoder.down.{level}.downsample.conv", h.shape[1], stride=2, padding=0)
    h = w.activated(taming_middle(w, h, "encoder.mid"), "encoder.norm_out")
    return w.conv(w.conv(h, "encoder.conv_out", dim), "quant_conv", 6, 1)


def cosmos_decode(w: Weights, codes: Tensor, channels: int, multipliers: list[int], halvings: int, dim: int) -> Tensor:
    h = w.conv(w.conv(codes, "post_quant_conv", dim, 1), "decoder.conv_in", channels * multipliers[-1])
    h = taming_middle(w, h, "decoder.mid")
    for level in range(len(multipliers) - 1, -1, -1):
        for b in range(3):
            h = taming_block(w, h, f"decoder.up.{level}.block.{b}", channels * multipliers[level])
        if level >= len(multipliers) - halvings:
            h = h.repeat_interleave(2, 2).repeat_interleave(2, 3)
            h = w.conv(h, f"decoder.up.{level}.upsample.conv", h.shape[1])
    return (inverse_haar(w.conv(w.activated(h, "decoder.norm_out"), "decoder.conv_out", 48)) + 1) / 2


def scalar_codes(z: Tensor, levels: list[int]) -> tuple[Tensor, Tensor]:
    """Finite scalar quantization of ``[B, D, h, w]``: codes, and indices ``[B, h, w]``, the first channel least."""
    sizes = torch.tensor(levels)[:, None, None]
    half, offset = (sizes - 1) * 1.001 / 2, 0.5 * (sizes % 2 == 0)
    steps = torch.round(torch.tanh(z + torch.atanh(offset / half)) * half - offset)
    basis = torch.tensor([1, *levels[:-1]]).cumprod(0)[:, None, None]
    return steps / (sizes // 2), ((steps.long() + sizes // 2) * basis).sum(1)
