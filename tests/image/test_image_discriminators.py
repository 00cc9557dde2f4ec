"""Image discriminators: the published PatchGAN, and augmentation that gradients pass."""

from __future__ import annotations

import pytest
import torch

from tokenizers_mm.image.discriminators import Augmented, Blur, PatchDiscriminator


def test_patchgan_is_the_published_one() -> None:
    network = PatchDiscriminator()
    assert sum(p.numel() for p in network.parameters()) == 2_765_633
    convolutions = {int(k.split(".")[1]) for k in network.state_dict() if k.endswith("weight")}
    assert convolutions == {0, 2, 3, 5, 6, 8, 9, 11}
    (output,) = network(torch.rand(1, 3, 256, 256))
    assert output.logits.shape == (1, 1, 30, 30)
    assert [f.shape[1] for f in output.features] == [64, 128, 256, 512]


@pytest.mark.parametrize("options", [{"norm": "group"}, {"norm": "none", "blur": True}, {"layers": 2, "channels": 8}])
def test_variants_judge_patches(options: dict) -> None:
    (output,) = PatchDiscriminator(**{"channels": 16, **options})(torch.rand(2, 3, 64, 48))
    assert output.logits.shape[:2] == (2, 1)
    assert min(output.logits.shape[2:]) > 1


def test_items_do_not_see_each_other_without_batch_normalisation() -> None:
    network, x = PatchDiscriminator(channels=16, norm="group"), torch.rand(3, 3, 48, 48)
    assert torch.allclose(network(x)[0].logits[:1], network(x[:1])[0].logits, atol=1e-6)


def test_blur_halves_and_keeps_constants() -> None:
    x = torch.full((1, 4, 16, 16), 0.7)
    assert torch.allclose(Blur()(x), torch.full((1, 4, 8, 8), 0.7))


class Mirror(torch.nn.Module):
    def forward(self, x: torch.Tensor, condition: torch.Tensor | None = None) -> torch.Tensor:
        return x


def test_augmentations_keep_shape_differ_per_item_and_pass_gradients() -> None:
    torch.manual_seed(0)
    x = torch.rand(1, 3, 32, 40).expand(4, -1, -1, -1).clone().requires_grad_()
    for options in ({"shift": 0, "cutout": 0}, {"colour": False, "cutout": 0}, {"colour": False, "shift": 0}, {}):
        y = Augmented(Mirror(), **options)(x)
        assert y.shape == x.shape
        assert not torch.equal(y[0], y[1])
        (gradient,) = torch.autograd.grad(y.sum(), x)
        assert gradient.abs().sum() > 0
    shifted = Augmented(Mirror(), colour=False, cutout=0)(x)
    assert set(shifted.detach().flatten().tolist()) <= {0.5, *x.detach().flatten().tolist()}


def test_wrong_options_are_named() -> None:
    with pytest.raises(ValueError, match="norm must be"):
        PatchDiscriminator(norm="layer")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="shift and cutout"):
        Augmented(Mirror(), cutout=2)
