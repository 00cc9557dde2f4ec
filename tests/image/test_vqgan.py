from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenizers_mm.image import VQGAN

TINY = {"hop": 4, "channels": 8, "multipliers": (1, 2, 2), "blocks": 1, "latent_channels": 8, "groups": 4}
QUANTIZERS = {
    "llamagen": {"kind": "gradient_vq", "codebook_size": 32, "codebook_dim": 4, "normalise": True},
    "taming": {"kind": "gradient_vq", "codebook_size": 32, "codebook_dim": 8},
    "ema": {"kind": "vq", "codebook_size": 32, "codebook_dim": 4, "cosine": True},
    "rvq": {"kind": "rvq", "codebook_size": 16, "num_codebooks": 2},
    "fsq": {"kind": "fsq", "levels": [8, 5, 5]},
    "lfq": {"kind": "lfq", "codebook_size": 2**18, "bit_order": "lsb"},
    "bsq": {"kind": "bsq", "codebook_size": 2**36},
    "ibq": {"kind": "ibq", "codebook_size": 32},
    "simvq": {"kind": "simvq", "codebook_size": 32},
}


def tiny(quantizer: str = "llamagen", **changes) -> VQGAN:
    torch.manual_seed(0)
    return VQGAN(**{**TINY, **changes}, quantizer=QUANTIZERS[quantizer]).eval()


def parameters(**arguments) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in VQGAN(**arguments).parameters())


def vq(size: int, dim: int, kind: str = "gradient_vq") -> dict:
    return {"quantizer": {"kind": kind, "codebook_size": size, "codebook_dim": dim}}


@pytest.mark.parametrize(
    ("arguments", "count"),
    [
        ({}, 71_883_403),
        ({"hop": 8, "multipliers": (1, 2, 2, 4)}, 70_109_835),
        (vq(1024, 256), 72_141_699),
        (vq(16384, 256), 76_073_859),
        ({"hop": 8, "multipliers": (1, 2, 2, 4), "latent_channels": 4, **vq(16384, 4)}, 67_717_295),
        (
            {"hop": 4, "multipliers": (1, 2, 4), "level_attention": False, "latent_channels": 3, **vq(8192, 3)},
            55_322_782,
        ),
        ({"blocks": 4, **vq(16384, 256, "ibq")}, 110_982_019),
        ({"blocks": 4, **vq(262144, 256, "ibq")}, 173_896_579),
    ],
    ids=["llamagen-16", "llamagen-8", "taming-1024", "taming-16384", "ldm-f8", "ldm-f4", "ibq-16384", "ibq-262144"],
)
def test_published_sizes(arguments: dict, count: int) -> None:
    assert parameters(**arguments) == count


@pytest.mark.parametrize("kind", QUANTIZERS)
def test_every_quantizer_encodes_decodes_and_trains(kind: str) -> None:
    codec = tiny(kind)
    x = torch.rand(2, 3, 10, 7)
    tokens = codec.encode(x)
    assert tokens.shape == (3, 2)
    assert codec.decode(tokens).shape == x.shape
    output = codec.train()(x)
    (output.reconstruction.square().mean() + output.quantizer_loss).backward()
    assert not [name for name, p in codec.named_parameters() if p.grad is None and p.requires_grad]


@settings(max_examples=15, deadline=None)
@given(height=st.integers(1, 40), width=st.integers(1, 40))
def test_any_size_comes_back_exactly_and_costs_whole_cells(height: int, width: int) -> None:
    codec = CODEC
    x = torch.rand(1, 3, height, width)
    tokens = codec.encode(x)
    assert tokens.shape == (-(-height // 4), -(-width // 4))
    image = codec.decode(tokens)
    assert image.shape == x.shape
    assert float(image.min()) >= 0
    assert float(image.max()) <= 1


CODEC = tiny()


def test_a_very_long_strip_comes_back() -> None:
    assert CODEC.reconstruct(torch.rand(1, 3, 1, 2000)).shape == (1, 3, 1, 2000)


def test_images_of_different_sizes_share_a_batch() -> None:
    sizes = torch.tensor([[12, 16], [5, 9], [12, 9], [1, 1]])
    items = [torch.rand(3, *size) for size in sizes.tolist()]
    padded = torch.full((4, 3, 12, 16), 0.3)
    for row, item in zip(padded, items, strict=True):
        row[:, : item.shape[1], : item.shape[2]] = item
    together = CODEC.encode(padded, sizes)
    assert torch.equal(together.side["size"], sizes)
    decoded = CODEC.decode(together)
    for i, item in enumerate(items):
        alone = CODEC.encode(item[None])
        assert together[i] == alone
        torch.testing.assert_close(decoded[i][:, : item.shape[1], : item.shape[2]], CODEC.decode(alone)[0])
        assert not decoded[i][:, item.shape[1] :].any()
        assert not decoded[i][:, :, item.shape[2] :].any()


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (torch.rand(1, 3, 8, 8) * 2 - 1, r"\(x \+ 1\) / 2"),
        (torch.rand(1, 3, 8, 8) * 255, "x / 255"),
        (torch.rand(1, 1, 8, 8), "1 channels"),
        (torch.rand(1, 4, 8, 8), "4 channels"),
        (torch.rand(3, 8, 8), r"\[B, 3, H, W\]"),
        (torch.full((1, 3, 8, 8), torch.nan), "NaN"),
    ],
)
def test_wrong_images_are_refused_in_words(x: torch.Tensor, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        CODEC.encode(x)


def test_bytes_are_refused_and_slight_overshoot_is_not() -> None:
    with pytest.raises(TypeError, match="x / 255 for uint8"):
        CODEC.encode(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))
    CODEC.encode(torch.rand(1, 3, 8, 8) * 1.02 - 0.01)


def test_unit_length_codes_ignore_the_scale_of_features() -> None:
    quantizer = CODEC.quantizer
    z = torch.randn(1, 50, 8)
    with torch.no_grad():
        quantizer.project_in.bias.zero_()
    torch.testing.assert_close(quantizer.codebook.codes.norm(dim=-1), torch.ones(32))
    assert torch.equal(quantizer(z).ids, quantizer(17 * z).ids)


def test_training_memorises_a_picture() -> None:
    codec = tiny("fsq").train()
    x = torch.rand(2, 3, 2, 2).repeat_interleave(4, -1).repeat_interleave(4, -2)
    optimizer = torch.optim.Adam(codec.parameters(), 3e-3)
    errors = []
    for _ in range(40):
        output = codec(x)
        loss = (output.reconstruction - x).square().mean()
        errors.append(float(loss.detach()))
        optimizer.zero_grad()
        (loss + output.quantizer_loss).backward()
        optimizer.step()
    assert errors[-1] < errors[0] / 4
