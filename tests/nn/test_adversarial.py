from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from tokenizers_mm.nn.adversarial import (
    DISCRIMINATOR_LOSSES,
    GENERATOR_LOSSES,
    Adversary,
    DiscriminatorOutput,
    feature_matching_loss,
    hinge_discriminator_loss,
    hinge_generator_loss,
    least_squares_discriminator_loss,
    least_squares_generator_loss,
)

logits = st.lists(st.floats(-5, 5, width=32), min_size=1, max_size=20)


class TwoConvs(nn.Module):
    """Two sub-discriminators of one convolution each; counts how often it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv1d(1, 3, 3) for _ in range(2))
        self.calls: list[bool] = []

    def forward(self, x: Tensor, condition: Tensor | None = None) -> list[DiscriminatorOutput]:
        self.calls.append(torch.is_grad_enabled())
        return [DiscriminatorOutput(y.mean(1), [y, y.mean(1)]) for y in (conv(x) for conv in self.convs)]


@pytest.fixture
def pair() -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(2, 1, 32), torch.randn(2, 1, 32, requires_grad=True)


@given(logits, logits)
def test_losses_equal_the_formulas_written_out(real: list[float], fake: list[float]) -> None:
    def mean(values: list[float]) -> float:
        return sum(values) / len(values)

    r, f = torch.tensor(real), torch.tensor(fake)
    cases = [
        (hinge_discriminator_loss(r, f), mean([max(0, 1 - v) for v in real]) + mean([max(0, 1 + v) for v in fake])),
        (hinge_generator_loss(f), mean([max(0, 1 - v) for v in fake])),
        (least_squares_discriminator_loss(r, f), mean([(1 - v) ** 2 for v in real]) + mean([v**2 for v in fake])),
        (least_squares_generator_loss(f), mean([(1 - v) ** 2 for v in fake])),
    ]
    for got, wanted in cases:
        assert float(got) == pytest.approx(wanted, rel=1e-4, abs=1e-5)


def test_a_perfect_discriminator_has_nothing_to_lose_and_a_perfect_generator_neither() -> None:
    one = torch.ones(4)
    assert hinge_discriminator_loss(one, -one) == hinge_generator_loss(one) == 0
    assert least_squares_discriminator_loss(one, 0 * one) == least_squares_generator_loss(one) == 0


def test_feature_matching_sums_maps_and_reduces_sub_discriminators_as_asked() -> None:
    real = [DiscriminatorOutput(torch.zeros(1), [torch.zeros(2, 3), torch.zeros(5)]) for _ in range(2)]
    fake = [DiscriminatorOutput(torch.zeros(1), [torch.full((2, 3), v), torch.full((5,), -2 * v)]) for v in (1.0, 10.0)]
    assert feature_matching_loss(real, fake, "sum") == 33
    assert feature_matching_loss(real, fake, "mean") == 16.5


def test_feature_matching_refuses_outputs_of_different_discriminators() -> None:
    output = DiscriminatorOutput(torch.zeros(1), [torch.zeros(1)])
    with pytest.raises(ValueError):
        feature_matching_loss([output], [output, output])


@torch.no_grad()
def test_objective_is_the_weighted_sum_of_the_parts(pair: tuple[Tensor, Tensor]) -> None:
    real, fake = pair
    discriminator = TwoConvs()
    outputs = list(zip(discriminator(real), discriminator(fake), strict=True))
    scores = [float((1 - f.logits).square().mean()) for _, f in outputs]
    features = [
        sum(float((a - b).abs().mean()) for a, b in zip(r.features, f.features, strict=True)) for r, f in outputs
    ]
    for reduction, share in (("sum", 1), ("mean", 2)):
        adversary = Adversary(discriminator, "least_squares", reduction, weight=0.5, feature_weight=3.0)
        adversarial, matching = adversary.generator_loss(real, fake)
        assert float(adversarial) == pytest.approx(0.5 * sum(scores) / share, rel=1e-5)
        assert float(matching) == pytest.approx(3 * sum(features) / share, rel=1e-5)


def test_each_player_moves_only_its_own_parameters(pair: tuple[Tensor, Tensor]) -> None:
    real, fake = pair
    adversary = Adversary(TwoConvs())
    adversary.discriminator_loss(real, fake).backward()
    assert fake.grad is None
    assert all(conv.weight.grad.abs().sum() > 0 for conv in adversary.discriminator.convs)
    adversary.zero_grad()
    sum(adversary.generator_loss(real, fake)).backward()
    assert fake.grad is not None
    assert fake.grad.abs().sum() > 0
    assert all(p.grad is None and p.requires_grad for p in adversary.parameters())


def test_generator_step_records_no_graph_over_real_signals_and_skips_them_without_feature_matching(
    pair: tuple[Tensor, Tensor],
) -> None:
    matching = Adversary(TwoConvs())
    matching.generator_loss(*pair)
    assert matching.discriminator.calls == [True, False]
    plain = Adversary(TwoConvs(), feature_weight=0.0)
    _, term = plain.generator_loss(*pair)
    assert plain.discriminator.calls == [True]
    assert float(term) == 0


def test_frozen_random_guides_the_generator_but_never_learns(pair: tuple[Tensor, Tensor]) -> None:
    real, fake = pair
    adversary = Adversary(TwoConvs(), frozen_random=True)
    assert not any(p.requires_grad for p in adversary.parameters())
    loss = adversary.discriminator_loss(real, fake)
    assert float(loss) == 0
    assert not loss.requires_grad
    sum(adversary.generator_loss(real, fake)).backward()
    assert fake.grad is not None
    assert fake.grad.abs().sum() > 0
    assert not any(p.requires_grad for p in adversary.parameters())
    assert adversary.state_dict(), "resuming must bring the same random network back"


def test_a_trained_discriminator_tells_real_from_fake() -> None:
    torch.manual_seed(0)
    adversary = Adversary(TwoConvs())
    optimizer = torch.optim.Adam(adversary.parameters(), 0.05)
    for _ in range(60):
        optimizer.zero_grad()
        loss = adversary.discriminator_loss(torch.randn(4, 1, 32) + 2, torch.randn(4, 1, 32) - 2)
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.5


@pytest.mark.parametrize(
    ("argument", "value"), [("loss", "wasserstein"), ("reduction", "max"), ("weight", -1.0), ("feature_weight", -1.0)]
)
def test_bad_arguments_are_named(argument: str, value: object) -> None:
    with pytest.raises(ValueError, match=argument):
        Adversary(TwoConvs(), **{argument: value})


def test_a_recipe_can_list_adversaries() -> None:
    jsonargparse = pytest.importorskip("jsonargparse")
    parser = jsonargparse.ArgumentParser()
    parser.add_argument("--adversaries", type=dict[str, Adversary])
    wing = "tokenizers_mm.audio.discriminators"
    entry = {
        "class_path": "tokenizers_mm.nn.adversarial.Adversary",
        "init_args": {
            "discriminator": {
                "class_path": f"{wing}.MultiResolutionDiscriminator",
                "init_args": {"channels": 2, "resolutions": [[64, 16, 64]], "num_embeddings": 4},
            },
            "loss": "least_squares",
            "feature_weight": 2.0,
        },
    }
    parsed = parser.instantiate_classes(parser.parse_object({"adversaries": {"mrd": entry}}))
    adversary = parsed.adversaries["mrd"]
    x = torch.randn(2, 1, 100)
    assert torch.isfinite(adversary.discriminator_loss(x, x.flip(-1), torch.tensor([0, 3])))


# -- regularised and adaptive games


class Linear(nn.Module):
    """A logit that is linear in the signal: its gradient is the weight."""

    def __init__(self, weight: float = 2.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight))

    def forward(self, x: Tensor, condition: Tensor | None = None) -> list[DiscriminatorOutput]:
        return [DiscriminatorOutput(self.weight * x, [])]


def test_games_have_their_published_gradients() -> None:
    logits = torch.tensor([[-3.0, 0.5], [2.0, 4.0]])
    assert float(GENERATOR_LOSSES["hinge_linear"](logits)) == pytest.approx(-0.875)
    assert float(GENERATOR_LOSSES["hinge_patch_mean"](logits)) == pytest.approx(
        float((F.softplus(torch.tensor(1.25)) + F.softplus(torch.tensor(-3.0))) / 2)
    )
    bce = F.binary_cross_entropy_with_logits
    real, fake = logits, -logits + 0.3
    wanted = bce(real, torch.ones_like(real)) + bce(fake, torch.zeros_like(fake))
    assert float(DISCRIMINATOR_LOSSES["non_saturating"](real, fake)) == pytest.approx(float(wanted), rel=1e-5)


def test_r1_has_a_gradient_and_comes_every_few_turns() -> None:
    x = torch.randn(4, 3, 5)
    plain, lazy = Adversary(Linear()), Adversary(Linear(), r1_weight=10.0, r1_every=3)
    extra = []
    for _ in range(4):
        lazy.zero_grad()
        loss = lazy.discriminator_loss(x, -x)
        extra.append(float(loss.detach() - plain.discriminator_loss(x, -x).detach()))
        loss.backward()
    penalty = 3 * 10 / 2 * 15 * 2.0**2  # interval x gamma / 2 x 15 samples x weight squared
    assert extra == pytest.approx([penalty, 0, 0, penalty])
    grown = lazy.discriminator.weight.grad
    lazy.zero_grad()
    plain.discriminator_loss(x, -x).backward()
    assert float(grown - plain.discriminator.weight.grad) == pytest.approx(3 * 10 * 15 * 2.0, rel=1e-4)
    with pytest.raises(ValueError, match="without batch normalisation"):
        Adversary(nn.Sequential(nn.BatchNorm1d(3)), r1_weight=1.0)


def test_lecam_compares_with_averages_that_are_saved() -> None:
    adversary = Adversary(Linear(1.0), lecam_weight=1.0)
    real, fake = torch.full((2, 1, 4), 3.0), torch.full((2, 1, 4), -2.0)
    game = hinge_discriminator_loss(real, fake)
    first = float(adversary.discriminator_loss(real, fake).detach() - game)
    assert first == pytest.approx(3**2 + 2**2)  # both averages are still 0
    assert adversary.lecam_means.tolist() == pytest.approx([0.003, -0.002])
    other = Adversary(Linear(1.0), lecam_weight=1.0)
    other.load_state_dict(adversary.state_dict())
    second = float(other.discriminator_loss(real, fake).detach() - game)
    assert second == pytest.approx((3 + 0.002) ** 2 + (0.003 + 2) ** 2, rel=1e-5)
    assert "lecam_means" not in Adversary(Linear()).state_dict()
