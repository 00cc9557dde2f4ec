"""Masked generation: every code is found once, as many at a step as the schedule says; only masked codes are trained."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.lm.test_vocabulary import STREAMS, item
from tokenizers_mm.lm.masked import MaskedTokenLM, random_masks, reveal, schedule

SMALL = {"dim": 32, "layers": 2, "heads": 2}
CELLS = 12


def model(stream: str = "image", **options: object) -> MaskedTokenLM:
    torch.manual_seed(0)
    network = MaskedTokenLM(STREAMS[stream].to_dict(), **{**SMALL, **options})  # type: ignore[arg-type]
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return network.eval()


def documents(network: MaskedTokenLM, count: int, label: int | None = None) -> torch.Tensor:
    stream = network.stream
    items = [item(stream, (3, 4), seed) for seed in range(count)]
    return torch.stack([network.vocabulary.document([(stream.name, each)], label) for each in items])


@given(cells=st.integers(1, 400), steps=st.integers(1, 500))
def test_the_schedule_falls_at_every_step_to_nothing(cells: int, steps: int) -> None:
    left = [cells, *schedule(cells, steps)]
    assert len(left) == min(steps, cells) + 1
    assert all(a > b for a, b in pairwise(left))
    assert left[-1] == 0
    if steps >= cells:
        assert left == list(range(cells, -1, -1))


@settings(max_examples=30, deadline=None)
@given(cells=st.integers(1, 40), steps=st.integers(1, 50), seed=st.integers(0, 99))
def test_every_code_is_revealed_once(cells: int, steps: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    codes, mask = torch.full((3, cells), 7), 7
    for left in schedule(cells, steps):
        drawn, sure = torch.randint(7, codes.shape, generator=generator), torch.randn(codes.shape, generator=generator)
        after = reveal(codes, drawn, sure, left, mask)
        known = codes != mask
        assert torch.equal(after[known], codes[known])
        assert ((after == mask).sum(dim=1) == left).all()
        revealed = (after != mask) & ~known
        worst = sure.masked_fill(~revealed, math.inf).amin(dim=1)
        assert (sure.masked_fill(after != mask, -math.inf).amax(dim=1) <= worst).all()
        codes = after
    assert (codes != mask).all()


def test_shares_of_masks_follow_the_cosine() -> None:
    places = torch.rand(20_000)
    masks = random_masks(places, 50)
    assert masks.any(dim=1).all()
    assert abs(float(masks.float().mean()) - 2 / math.pi) < 0.02
    assert masks.float().mean(dim=0).std() < 0.01


def test_only_masked_codes_are_trained_and_only_on_what_is_visible() -> None:
    network = model()
    signal = documents(network, 6)
    codes, labels = network._read(signal)
    masked = random_masks((torch.arange(6) + 0.5) / 6, CELLS, torch.Generator().manual_seed(0))
    logits = network(codes.masked_fill(masked, network.codes), labels)
    expected = -logits.log_softmax(dim=-1).gather(-1, codes[..., None])[..., 0][masked].mean()
    assert torch.allclose(network.loss(signal), expected, atol=1e-6)
    hidden = codes.clone()
    hidden[masked] = (hidden[masked] + 1) % network.codes
    assert torch.equal(network(hidden.masked_fill(masked, network.codes), labels), logits)
    later = codes.masked_fill(masked, network.codes)
    later[:, -1] = (codes[:, -1] + 1) % network.codes
    assert not torch.allclose(network(later, labels)[:, 0], logits[:, 0])  # it looks ahead


def test_smoothing_spreads_its_share_in_training_alone() -> None:
    network = model(label_smoothing=0.5)
    signal = documents(network, 6)
    assert torch.equal(network.loss(signal), model(label_smoothing=0.0).loss(signal))
    torch.manual_seed(1)
    smoothed = network.train().loss(signal)
    torch.manual_seed(1)
    assert not torch.allclose(smoothed, model(label_smoothing=0.0).train().loss(signal))


def test_guidance_of_one_is_the_class_alone_and_items_do_not_depend_on_others() -> None:
    network = model(classes=3)
    both = network.generate([1, None], steps=4, seed=3)
    assert both[0] == network.generate([1], steps=4, seed=3)
    assert both.ids.shape == (2, CELLS, 1)
    assert ((both.ids >= 0) & (both.ids < 9)).all()
    guided = network.generate([1, None], steps=4, seed=3, guidance=8.0)
    assert not torch.equal(guided.ids[0], both.ids[0])
    assert torch.equal(guided.ids[1], both.ids[1])  # no class to be guided to


def test_it_draws_what_it_has_learnt() -> None:
    """Class k is the code k everywhere."""
    torch.manual_seed(0)
    network = MaskedTokenLM(STREAMS["image"].to_dict(), classes=3, **SMALL)  # type: ignore[arg-type]
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    stream = network.stream
    rows = [
        network.vocabulary.document([("image", stream.tokens(torch.full((CELLS, 1), k), (3, 4)))], k) for k in range(3)
    ]
    for _ in range(30):
        optimizer.zero_grad()
        network.loss(torch.stack(rows * 4)).backward()
        optimizer.step()
    drawn = network.eval().generate([2, 0, 1], steps=3, temperature=0.5, seed=0)
    assert torch.equal(drawn.ids[..., 0], torch.tensor([[2], [0], [1]]).expand(-1, CELLS))


def test_a_model_survives_its_folder(tmp_path: Path) -> None:
    network = model(classes=2)
    network.save_pretrained(tmp_path)
    signal = documents(network, 3, 1)
    assert torch.equal(MaskedTokenLM.from_pretrained(tmp_path).loss(signal), network.loss(signal))


def test_what_does_not_fit_is_refused() -> None:
    for name in ("plain", "residual-image"):
        with pytest.raises(ValueError, match="one codebook and one grid"):
            model(name)
    network = model(classes=2)
    signal = documents(network, 2)
    with pytest.raises(ValueError, match="rows of one image"):
        network.loss(torch.cat([signal, signal], dim=1))
    with pytest.raises(ValueError, match="rows of one image"):
        network.loss(signal[:, :-1])
    with pytest.raises(ValueError, match="label must be"):
        network.generate([2])
    with pytest.raises(ValueError, match="steps must be"):
        network.generate([1], steps=0)
