"""The generate loop and what it does to logits: identities, limits, masks, guidance, rows that depend on nobody else."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tokenizers_mm.lm.backbone import DecoderLM
from tokenizers_mm.lm.processors import choose, discourage, guide, keep_top_k, pick, probabilities
from tokenizers_mm.lm.sampling import Sampling, generate

V = 30
logit_rows = st.lists(st.lists(st.integers(-40, 40), min_size=6, max_size=6), min_size=1, max_size=4).map(
    lambda rows: torch.tensor(rows, dtype=torch.float32) / 8
)


@pytest.fixture
def lm() -> DecoderLM:
    torch.manual_seed(0)
    lm = DecoderLM(V, dim=32, layers=2, heads=4).eval()
    for p in lm.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return lm


def seeded(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


@settings(max_examples=50, deadline=None)
@given(logit_rows)
def test_limits_are_the_likeliest_and_identities(logits: Tensor) -> None:
    top = logits == logits.amax(dim=-1, keepdim=True)
    for sampling in (Sampling(top_k=1), Sampling(min_p=1.0)):
        assert torch.equal(probabilities(logits, sampling) > 0, top)  # ties are kept
    for sampling in (Sampling(0.0), Sampling(top_p=0.0), Sampling(top_p=1e-6)):
        p = probabilities(logits, sampling)
        assert ((p > 0).sum(dim=-1) == 1).all()
        assert (p[top] > 0).sum() == len(logits)
    for sampling in (Sampling(top_k=6), Sampling(top_k=0), Sampling(top_p=1.0, min_p=0.0)):
        torch.testing.assert_close(probabilities(logits, sampling), logits.softmax(dim=-1))


@settings(max_examples=50, deadline=None)
@given(logit_rows, st.floats(0.05, 0.95))
def test_the_nucleus_is_the_smallest_set_that_reaches_p(logits: Tensor, p: float) -> None:
    kept = probabilities(logits, Sampling(top_p=p)) > 0
    for row, keeps in zip(logits.softmax(dim=-1), kept, strict=True):
        total, least = float(row[keeps].sum()), float(row[keeps].min())
        assert total > p - 1e-5
        assert total - least < p + 1e-5
        assert not (~keeps).any() or float(row[~keeps].max()) <= least + 1e-6


def test_ties_at_the_last_place_are_kept() -> None:
    logits = torch.tensor([[3.0, 1.0, 1.0, 0.0]])
    assert (keep_top_k(logits, 2) > -torch.inf).tolist() == [[True, True, True, False]]


def test_draws_follow_the_probabilities_of_the_whole_chain() -> None:
    logits = torch.tensor([0.4, 0.3, 0.2, 0.1]).log()
    expected = probabilities(logits[None], Sampling(0.5, top_k=3))
    torch.testing.assert_close(expected[0], torch.tensor([16.0, 9.0, 4.0, 0.0]) / 29)
    drawn = choose(logits.expand(40000, 4), Sampling(0.5, top_k=3), torch.Generator().manual_seed(0))
    torch.testing.assert_close(drawn.bincount(minlength=4) / 40000, expected[0], atol=0.01, rtol=0)


def test_penalties_lower_what_came_before() -> None:
    logits = torch.tensor([[2.0, -2.0, 1.0]])
    assert discourage(logits, torch.tensor([[0, 1, 0]]), 2.0).tolist() == [[1.0, -4.0, 1.0]]


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**20))
def test_rows_of_a_ragged_batch_are_single_runs(seed: int) -> None:
    torch.manual_seed(0)
    lm = DecoderLM(V, dim=32, layers=2, heads=4).eval()
    prompts = [torch.randint(V, (n,)) for n in (2, 5, 3)]
    ids, valid = torch.zeros(3, 5, 1).long(), torch.zeros(3, 5, dtype=torch.bool)
    for i, row in enumerate(prompts):
        ids[i, 5 - len(row) :, 0], valid[i, 5 - len(row) :] = row, True
    options = {"sampling": Sampling(1.2, top_k=20, top_p=0.95), "stop": lambda step, new: new[:, 0] < 3}
    together = generate(lm, ids, 8, valid=valid, generators=seeded(seed, 1, 2), **options)
    for i, row in enumerate(prompts):
        alone = generate(lm, row[None, :, None], 8, generators=seeded((seed, 1, 2)[i]), **options)
        assert int(alone.lengths) == int(together.lengths[i])
        assert torch.equal(alone.ids[0], together.ids[i, : alone.ids.shape[1]])
        assert (together.ids[i, int(alone.lengths) :] == 0).all()


def test_masks_are_never_broken_and_see_what_came(lm: DecoderLM) -> None:
    def other_residue(step: int, lane: int, so_far: Tensor) -> Tensor:
        """Of 5 residues, never the one before."""
        assert so_far.shape == (4, step, 1)
        allowed = torch.arange(V) % 5 == step % 5
        return allowed.expand(4, V) if step == 0 else allowed & (torch.arange(V) != so_far[:, -1] + 1)

    found = generate(lm, torch.zeros(4, 1, 1).long(), 40, mask=other_residue, sampling=Sampling(5.0))
    assert torch.equal(found.ids[..., 0] % 5, (torch.arange(40) % 5).expand(4, -1))
    assert ((found.ids[:, 1:] - found.ids[:, :-1]) != 1).all()


def test_guidance_pushes_both_rows_with_the_same_ids(lm: DecoderLM) -> None:
    """Against running the whole each time: raw logits guided first, by the schedule of scales, in the interval alone."""
    prompt, null = torch.randint(V, (2, 4, 1)), torch.randint(V, (2, 2, 1))
    sampling = Sampling(0.0, guidance=(3.0, 1.0, 2.0), guidance_steps=(0, 4))
    found = generate(lm, prompt, 6, unconditional=null, sampling=sampling).ids
    ids = torch.zeros(2, 0, 1).long()
    for scale in (3.0, 1.0, 2.0, 2.0, 1.0, 1.0):
        c, u = (lm(torch.cat([side, ids], dim=1)[..., 0]).logits[:, -1] for side in (prompt, null))
        ids = torch.cat([ids, guide(c, u, scale).argmax(-1)[:, None, None]], dim=1)
    assert torch.equal(found, ids)
    plain = generate(lm, prompt, 6, sampling=Sampling(0.0)).ids
    one = generate(lm, prompt, 6, unconditional=null, sampling=Sampling(0.0)).ids
    assert torch.equal(one, plain)
    assert not torch.equal(found, plain)


def test_penalties_and_callbacks_take_part(lm: DecoderLM) -> None:
    seen = []

    def never_again(step: int, lane: int, so_far: Tensor, logits: Tensor) -> Tensor:
        return logits.scatter(-1, so_far[..., lane], -torch.inf)

    found = generate(
        lm, torch.zeros(3, 1, 1).long(), V, penalties=[never_again], on_step=lambda step, new: seen.append(new.clone())
    ).ids
    assert all(len(row.unique()) == V for row in found)
    assert torch.equal(torch.stack(seen, dim=1), found)
    with pytest.raises(ValueError, match="penalties leaves no id that may come at step 30, lane 0, row 0"):
        generate(lm, torch.zeros(3, 1, 1).long(), V + 1, penalties=[never_again])


def test_troubles_are_told_by_name(lm: DecoderLM) -> None:
    prompt = torch.zeros(2, 1, 1).long()
    with pytest.raises(ValueError, match="mask leaves no id that may come at step 2, lane 0, row 1"):
        generate(lm, prompt, 5, mask=lambda step, lane, so_far: torch.tensor([[True], [step < 2]]).expand(2, V))
    with pytest.raises(ValueError, match=r"guidance 2\.0 needs unconditional"):
        generate(lm, prompt, 5, sampling=Sampling(guidance=2.0))
    with pytest.raises(ValueError, match="one for each of 2 rows, got 3"):
        generate(lm, prompt, 5, generators=seeded(1, 2, 3))
    with pytest.raises(ValueError, match="top_p and min_p"):
        Sampling(top_p=1.5)
    with torch.no_grad():
        lm.head.weight[3] = torch.nan
    with pytest.raises(ValueError, match="model gives logits that are not numbers at step 0, lane 0, row 0"):
        generate(lm, prompt, 5)


def test_one_generator_is_enough_and_repeats() -> None:
    p = torch.full((3, 5), 0.2)
    assert torch.equal(pick(p, *seeded(4)), pick(p, *seeded(4)))
