from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tokenizers_mm.audio.discriminators import (
    DACDiscriminator,
    MultiBandSTFTDiscriminator,
    MultiPeriodDiscriminator,
    MultiResolutionDiscriminator,
)
from tokenizers_mm.nn.adversarial import (
    Adversary,
    DiscriminatorOutput,
    feature_matching_loss,
    least_squares_generator_loss,
)

CHANNELS = (4, 8, 8)
RESOLUTIONS = ((64, 16, 64), (128, 32, 100))


def small(name: str, num_embeddings: int = 0) -> nn.Module:
    torch.manual_seed(0)
    return {
        "periods": lambda: MultiPeriodDiscriminator((2, 3, 5), num_embeddings, CHANNELS),
        "resolutions": lambda: MultiResolutionDiscriminator(RESOLUTIONS, num_embeddings, 4),
        "bands": lambda: MultiBandSTFTDiscriminator((128, 64), channels=4),
        "dac": lambda: DACDiscriminator((2, 3), CHANNELS, (128, 64), band_channels=4),
    }[name]()


NAMES = ("periods", "resolutions", "bands", "dac")


@pytest.mark.parametrize(
    ("build", "count"),
    [
        (lambda: MultiPeriodDiscriminator(num_embeddings=4), 41_126_250),
        (lambda: MultiResolutionDiscriminator(num_embeddings=4), 600_966),
        (lambda: DACDiscriminator(), 42_519_760),
    ],
)
def test_published_parameter_counts(build: Callable[[], nn.Module], count: int) -> None:
    with torch.device("meta"):
        discriminator = build()
    assert sum(p.numel() for p in discriminator.parameters()) == count


def test_published_feature_maps() -> None:
    x = torch.randn(1, 1, 4800)
    with torch.no_grad():
        mpd, mrd = MultiPeriodDiscriminator(num_embeddings=4, channels=(4,) * 5)(x), MultiResolutionDiscriminator()(x)
        dac = DACDiscriminator(period_channels=(4,) * 5)(x)
    assert [len(o.features) for o in mpd] == [5] * 5
    assert [len(o.features) for o in mrd] == [6] * 3
    assert [len(o.features) + 1 for o in dac] == [6] * 5 + [26] * 3
    for output in [*mpd, *mrd]:
        assert output.features[-1] is output.logits, "feature matching sees conditioned logits"
    for output in dac:
        assert all(m is not output.logits for m in output.features)


def test_bands_cut_the_spectrum_where_dac_does() -> None:
    discriminator = MultiBandSTFTDiscriminator().discriminators[0]
    assert discriminator.bands == [(0, 102), (102, 256), (256, 512), (512, 768), (768, 1025)]


def test_a_tone_reaches_only_its_band() -> None:
    band = MultiBandSTFTDiscriminator((64,), channels=2).discriminators[0].eval()
    n = torch.arange(640)
    with torch.no_grad():
        silent = band(torch.zeros(1, 1, 640)).features
        tone = band(0.5 * torch.cos(2 * torch.pi * 12 / 64 * n)[None, None]).features  # bin 12 of 33, in [0.25, 0.5)
    moved = [float((a - b)[:, :, 4:-4].abs().max()) > 1e-3 for a, b in zip(silent[::5], tone[::5], strict=True)]
    assert moved == [False, False, True, False, False]


def test_resolutions_see_the_centred_magnitude_with_a_rectangular_window() -> None:
    """Frame by frame, in numpy."""
    x = torch.randn(1, 1, 1000)
    seen: list[Tensor] = []
    sub = MultiResolutionDiscriminator(((128, 32, 128),), channels=2).discriminators[0]
    sub.convs[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    sub(x)
    padded = np.pad(x[0, 0].numpy(), 64, mode="reflect")
    frames = [np.abs(np.fft.rfft(padded[s : s + 128])) for s in range(0, len(padded) - 127, 32)]
    np.testing.assert_allclose(seen[0][0, 0].numpy(), np.stack(frames, axis=1), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("length", [1, 2, 5, 30, 97, 240, 481])
def test_any_length_gives_finite_outputs(name: str, length: int) -> None:
    for output in small(name)(torch.randn(2, 1, length)):
        assert len(output.logits) == 2
        assert all(torch.isfinite(t).all() and t.numel() for t in (output.logits, *output.features))


@pytest.mark.parametrize("name", NAMES)
def test_items_do_not_see_each_other(name: str) -> None:
    x = torch.randn(3, 1, 300)
    discriminator = small(name)
    for together, alone in zip(discriminator(x), discriminator(x[1:2]), strict=True):
        torch.testing.assert_close(together.logits[1:2], alone.logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_reach_every_parameter_and_the_signal(name: str) -> None:
    x = torch.randn(2, 1, 400, requires_grad=True)
    discriminator = small(name, num_embeddings=2)
    sum(o.logits.square().sum() for o in discriminator(x, torch.tensor([0, 1]))).backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0
    for key, parameter in discriminator.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.abs().sum() > 0, key


@pytest.mark.parametrize("name", NAMES)
def test_silence_has_finite_gradients(name: str) -> None:
    x = torch.zeros(1, 1, 400, requires_grad=True)
    discriminator = small(name)
    outputs = discriminator(x)
    with torch.no_grad():
        targets = discriminator(torch.randn(1, 1, 400))
    loss = feature_matching_loss(targets, outputs, "sum") + sum(least_squares_generator_loss(o.logits) for o in outputs)
    loss.backward()
    assert torch.isfinite(x.grad).all()
    assert x.grad.abs().max() < 1e6


@pytest.mark.parametrize("name", ["periods", "resolutions"])
def test_condition_changes_nothing_at_first_and_something_once_learned(name: str) -> None:
    x = torch.randn(2, 1, 300)
    plain, conditional = small(name), small(name, num_embeddings=3)
    conditional.load_state_dict(plain.state_dict(), strict=False)

    def logits(condition: Tensor | None) -> Tensor:
        return torch.cat([o.logits.flatten(1) for o in conditional(x, condition)], dim=1)

    unconditional = torch.cat([o.logits.flatten(1) for o in plain(x)], dim=1)
    for condition in (None, torch.tensor([2]), torch.tensor([0, 2])):
        assert torch.equal(logits(condition), unconditional)
    for sub in conditional.discriminators:
        nn.init.normal_(sub.projection.embedding.weight)
    mixed = logits(torch.tensor([0, 2]))
    assert not torch.allclose(mixed, unconditional)
    torch.testing.assert_close(mixed[0], logits(None)[0])
    torch.testing.assert_close(mixed[1], logits(torch.tensor([2]))[1])


def test_period_discriminator_scores_columns_apart() -> None:
    """Samples of one phase of the period never meet those of another."""
    x = torch.randn(1, 1, 60)
    changed = x.clone()
    changed[..., 0::3] += 1
    sub = MultiPeriodDiscriminator((3,), channels=CHANNELS).discriminators[0]
    moved = (sub(x).logits != sub(changed).logits).any(dim=2).flatten()
    assert moved.tolist() == [True, False, False]


def test_dac_period_discriminators_pad_a_whole_period_where_the_others_pad_nothing() -> None:
    x = torch.randn(1, 1, 27 * 2)
    plain = MultiPeriodDiscriminator((2,), channels=CHANNELS).discriminators[0](x)
    padded = small("dac").periods[0](x)
    assert plain.features[0].shape[2] == 9
    assert padded.features[0].shape[2] == 10


def test_dac_ignores_level_and_dc() -> None:
    x = torch.randn(2, 1, 300)
    discriminator = small("dac")
    for a, b in zip(discriminator(x), discriminator(0.01 * x + 0.3), strict=True):
        torch.testing.assert_close(a.logits, b.logits, rtol=1e-3, atol=1e-4)


def test_three_adversaries_make_the_published_objective() -> None:
    """Written out term by term from the three discriminators."""
    real, fake = 0.1 * torch.randn(2, 2, 1, 400)
    condition = torch.tensor([1, 3])
    mpd, mrd, dac = small("periods", 4), small("resolutions", 4), small("dac")
    adversaries = [Adversary(mpd), Adversary(mrd), Adversary(dac, "least_squares", "sum")]
    (rp, fp), (rr, fr) = ((d(real, condition), d(fake, condition)) for d in (mpd, mrd))
    rd, fd = dac(real), dac(fake)

    def hinge_g(outputs: list[DiscriminatorOutput]) -> Tensor:
        return sum((1 - o.logits).clamp(min=0).mean() for o in outputs) / len(outputs)

    def hinge_d(a: list[DiscriminatorOutput], b: list[DiscriminatorOutput]) -> Tensor:
        return sum(
            (1 - r.logits).clamp(min=0).mean() + (1 + f.logits).clamp(min=0).mean() for r, f in zip(a, b, strict=True)
        )

    def matching(a: list[DiscriminatorOutput], b: list[DiscriminatorOutput]) -> Tensor:
        maps = [(m, n) for r, f in zip(a, b, strict=True) for m, n in zip(r.features, f.features, strict=True)]
        return sum((m - n).abs().mean() for m, n in maps)

    generator = hinge_g(fp) + hinge_g(fr) + matching(rp, fp) / 3 + matching(rr, fr) / 2
    generator = generator + sum(((1 - o.logits) ** 2).mean() for o in fd) + matching(rd, fd)
    discriminator = hinge_d(rp, fp) / 3 + hinge_d(rr, fr) / 2
    discriminator = discriminator + sum(
        ((1 - r.logits) ** 2).mean() + (f.logits**2).mean() for r, f in zip(rd, fd, strict=True)
    )
    got = sum(sum(a.generator_loss(real, fake, condition)) for a in adversaries)
    torch.testing.assert_close(got, generator, rtol=1e-5, atol=1e-5)
    got = sum(a.discriminator_loss(real, fake, condition) for a in adversaries)
    torch.testing.assert_close(got, discriminator, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_runs_under_bfloat16_autocast(name: str) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = small(name)(torch.randn(1, 1, 300))
    assert all(torch.isfinite(o.logits).all() for o in outputs)


@pytest.mark.parametrize("shape", [(100,), (2, 100), (1, 2, 100), (1, 1, 0)])
@pytest.mark.parametrize("name", NAMES)
def test_only_mono_batches_are_taken(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"\[B, 1, N\]"):
        small(name)(torch.zeros(shape))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: MultiPeriodDiscriminator(()), "periods"),
        (lambda: MultiPeriodDiscriminator(channels=(8, 0)), "channels"),
        (lambda: MultiResolutionDiscriminator(((64, 16, 128),)), "win_length"),
        (lambda: MultiBandSTFTDiscriminator((16,)), "band"),
        (lambda: small("periods", 2)(torch.randn(3, 1, 50), torch.tensor([0, 1])), "condition"),
    ],
)
def test_bad_arguments_are_named(build: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()
