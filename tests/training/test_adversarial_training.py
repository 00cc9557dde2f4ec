from __future__ import annotations

import pytest
import torch
from lightning.pytorch import Callback
from toy_training import ToyCodec, ToyData, adversarial, make_trainer, weights

from tokenizers_mm.training.adversarial import random_crop


class Discriminators(Callback):
    """The discriminators' weights and the logged values after every step."""

    def __init__(self) -> None:
        self.states: list[torch.Tensor] = []
        self.rows: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.states.append(torch.cat([p.detach().flatten().clone() for p in pl_module.adversaries.parameters()]))
        self.rows.append({k: float(v) for k, v in trainer.logged_metrics.items()})


def changed(states: list[torch.Tensor], start: torch.Tensor) -> list[bool]:
    return [not torch.equal(a, b) for a, b in zip([start, *states], states, strict=False)]


def flat(module) -> torch.Tensor:
    return torch.cat([p.detach().flatten().clone() for p in module.adversaries.parameters()])


def test_every_trainable_discriminator_is_in_its_optimiser_and_only_there(tmp_path):
    module = adversarial(frozen=(False, True, False))
    trainer = make_trainer(tmp_path, 1)
    trainer.fit(module, ToyData())
    codec_side, discriminator_side = [
        {id(p) for group in o.param_groups for p in group["params"]} for o in trainer.optimizers
    ]
    trainable = {id(p) for a in (module.adversaries["d0"], module.adversaries["d2"]) for p in a.parameters()}
    assert discriminator_side == trainable
    assert codec_side == {id(p) for p in module.objective.codec.parameters()}


def test_a_frozen_random_discriminator_guides_but_never_learns(tmp_path):
    module, record = adversarial(frozen=(True,)), Discriminators()
    start = flat(module)
    trainer = make_trainer(tmp_path, 3, callbacks=[record])
    trainer.fit(module, ToyData())
    assert torch.equal(flat(module), start)
    assert len(trainer.optimizers) == 1
    assert record.rows[-1]["train/features/d0"] > 0


def test_steps_are_the_codecs_steps(tmp_path):
    module, record = adversarial(), Discriminators()
    trainer = make_trainer(tmp_path, 7, callbacks=[record])
    trainer.fit(module, ToyData())
    assert trainer.global_step == len(record.rows) == 7
    assert [int(next(iter(o.state.values()))["step"]) for o in trainer.optimizers] == [7, 7]


def test_the_game_starts_and_pauses_when_told(tmp_path):
    module, record = adversarial(discriminator_start=3, discriminator_every=2), Discriminators()
    start = flat(module)
    trainer = make_trainer(tmp_path, 8, callbacks=[record])
    trainer.fit(module, ToyData())
    assert changed(record.states, start) == [False, False, False, True, False, True, False, True]
    played = ["train/adversarial/d0" in row for row in record.rows]
    assert played == [False] * 3 + [True] * 5
    before = record.rows[0]
    assert before["train/loss"] == pytest.approx(before["train/l1"] + before["train/quantizer"])


def test_each_cosine_ends_with_its_own_optimiser(tmp_path):
    trainer = make_trainer(tmp_path, 9)
    trainer.fit(adversarial(discriminator_start=2, discriminator_every=3, min_lr=1e-5), ToyData())
    assert [o.param_groups[0]["lr"] for o in trainer.optimizers] == pytest.approx([1e-5, 1e-5])


def test_the_codecs_turn_leaves_no_gradient_on_the_discriminators(tmp_path):
    seen = []

    class Look(Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer) -> None:
            mine = {id(p) for group in optimizer.param_groups for p in group["params"]}
            before = {id(p): p.grad.clone() for p in pl_module.adversaries.parameters() if p.grad is not None}
            seen.append((mine, before))

    module = adversarial(frozen=(False,))
    make_trainer(tmp_path, 1, callbacks=[Look()]).fit(module, ToyData())
    (_, after_discriminator), (_, after_codec) = seen
    assert after_discriminator.keys() == after_codec.keys()
    # clipping acts in place between the two looks, so compare directions
    for key, gradient in after_discriminator.items():
        a, b = gradient.flatten(), after_codec[key].flatten()
        assert torch.linalg.vector_norm(a * b.norm() - b * a.norm()) <= 1e-5 * a.norm() * b.norm() + 1e-12


def test_crops_show_the_same_place_of_both_signals():
    x = torch.arange(2 * 3 * 20 * 30.0).reshape(2, 3, 20, 30)
    places = set()
    for _ in range(20):
        a, b = random_crop(x, -x, 8)
        assert a.shape == (2, 3, 8, 8)
        assert torch.equal(a, -b)
        places.add(float(a[0, 0, 0, 0]))
    assert len(places) > 5
    assert random_crop(x, x, None)[0] is x
    assert random_crop(x, x, 25)[0].shape == (2, 3, 20, 25)


def test_training_with_crops_changes_everything_that_should_learn(tmp_path):
    module = adversarial(discriminator_segment=16)
    before = weights(module)
    make_trainer(tmp_path, 3).fit(module, ToyData())
    stuck = [
        k for k, v in weights(module).items() if k in dict(module.named_parameters()) and torch.equal(v, before[k])
    ]
    assert [k for k in stuck if not k.startswith(("adversaries.d1", "objective.average"))] == []


@pytest.mark.parametrize("wrong", [{"discriminator_every": 0}, {"num_conditions": 0}])
def test_wrong_numbers_are_named(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        adversarial(**wrong)


def test_the_codec_hears_the_adversaries_later_than_they_learn(tmp_path):
    module, record = adversarial(frozen=(False,), generator_start=3), Discriminators()
    start = flat(module)
    make_trainer(tmp_path, 5, callbacks=[record]).fit(module, ToyData())
    assert all(changed(record.states, start))
    assert ["train/adversarial/d0" in row for row in record.rows] == [False, False, False, True, True]


def test_adaptive_terms_pull_at_the_last_layer_as_hard_as_the_reconstruction(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"adaptive_cap .* last_layer, got 100 with ToyCodec"):
        adversarial(adaptive_cap=100.0)
    monkeypatch.setattr(ToyCodec, "last_layer", property(lambda codec: codec.decoder.weight), raising=False)
    for cap, weight in ((1e9, 1.0), (1e9, 0.5), (0.001, 1.0)):
        module = adversarial(frozen=(False,), adaptive_cap=cap)
        module.adversaries["d0"].weight = weight
        layer = module.objective.codec.last_layer
        lengths = {}

        def measured(real, fake, loss, module=module, layer=layer, lengths=lengths):
            total = type(module)._generator_terms(module, real, fake, loss)
            features = module.adversaries["d0"].generator_loss(real, fake, module._draw_condition(real))[1]
            for name, term in (("reconstruction", loss), ("adversarial", total - features)):
                lengths[name] = float(torch.autograd.grad(term, layer, retain_graph=True)[0].norm())
            return total

        module.num_conditions = 1
        module._generator_terms = measured
        record = Discriminators()
        make_trainer(tmp_path, 2, callbacks=[record]).fit(module, ToyData())
        scale = record.rows[1]["train/adaptive/d0"]
        if cap < 1:
            assert scale == pytest.approx(cap)
        else:
            assert lengths["adversarial"] == pytest.approx(weight * lengths["reconstruction"], rel=0.02)
