"""Quantizers: round trips, codebook learning, revival of dead codes, refusal of wrong configs."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tokenizers_mm.quantizers import Quantizer, build_quantizer, synchronize, usage

CONFIGS = {
    "vq": {"kind": "vq", "codebook_size": 32},
    "vq-cosine": {"kind": "vq", "codebook_size": 32, "cosine": True, "codebook_dim": 4},
    "rvq": {"kind": "rvq", "codebook_size": 16, "num_codebooks": 3},
    "rvq-narrow": {"kind": "rvq", "codebook_size": 16, "num_codebooks": 2, "codebook_dim": 4},
    "fsq": {"kind": "fsq", "levels": [8, 5, 5, 5]},
    "lfq": {"kind": "lfq", "codebook_size": 64},
    "simvq": {"kind": "simvq", "codebook_size": 32},
}
DIM = 16


def trained(name: str, steps: int = 3) -> Quantizer:
    """A quantizer that saw a few batches, in evaluation mode."""
    torch.manual_seed(0)
    quantizer = build_quantizer(DIM, **CONFIGS[name]).train()
    for _ in range(steps):
        quantizer(torch.randn(4, 50, DIM))
    return quantizer.eval()


@pytest.mark.parametrize("name", CONFIGS)
@settings(max_examples=10, deadline=None)
@given(batch=st.integers(1, 3), steps=st.integers(1, 9), scale=st.floats(0, 100))
def test_ids_decode_to_exactly_the_features_they_stand_for(name: str, batch: int, steps: int, scale: float) -> None:
    quantizer = trained(name)
    out = quantizer(scale * torch.randn(batch, steps, DIM))
    assert out.ids.shape == (batch, steps, len(quantizer.codebook_sizes))
    assert out.ids.dtype == torch.int64
    assert bool((out.ids >= 0).all())
    assert bool((out.ids < torch.tensor(quantizer.codebook_sizes)).all())
    torch.testing.assert_close(quantizer.decode(out.ids), out.features, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", CONFIGS)
def test_gradients_pass_through(name: str) -> None:
    quantizer = trained(name).train()
    z = torch.randn(2, 20, DIM, requires_grad=True)
    out = quantizer(z)
    (out.features.square().sum() + out.loss).backward()
    assert z.grad is not None
    assert z.grad.abs().sum() > 0


@pytest.mark.parametrize("name", CONFIGS)
def test_evaluation_changes_nothing(name: str) -> None:
    quantizer = trained(name)
    before = {k: v.clone() for k, v in quantizer.state_dict().items()}
    out = quantizer(10 * torch.randn(2, 20, DIM))
    assert float(out.loss.detach()) == 0 or name == "lfq"
    assert all(torch.equal(v, before[k]) for k, v in quantizer.state_dict().items())


def test_vector_quantizer_without_projection_learns_only_by_averages() -> None:
    assert not list(build_quantizer(DIM, kind="vq", codebook_size=8).parameters())


def test_kmeans_start_counts_every_frame_and_stays_finite() -> None:
    quantizer = build_quantizer(DIM, kind="vq", codebook_size=8, decay=1.0, revive_below=0.0).train()
    quantizer(torch.randn(3, 40, DIM))
    codebook = quantizer.stages[0]._codebook
    assert torch.isfinite(codebook.embed).all()
    assert float(codebook.cluster_size.sum()) == 120
    # sums, not means: a code is its sum over its count
    torch.testing.assert_close(
        codebook.embed_avg / codebook.cluster_size[..., None], codebook.embed, atol=1e-4, rtol=1e-3
    )


def test_a_revived_code_survives_the_next_update() -> None:
    torch.manual_seed(0)
    quantizer = build_quantizer(DIM, kind="vq", codebook_size=16, decay=0.9).train()
    quantizer(torch.randn(2, 200, DIM))
    codebook = quantizer.stages[0]._codebook
    far = torch.full((DIM,), 1e3)
    codebook.embed[0, 3], codebook.embed_avg[0, 3], codebook.cluster_size[0, 3] = far, far * 1e-4, 1e-4
    quantizer(torch.randn(2, 200, DIM))
    revived = codebook.embed[0, 3].clone()
    assert float(revived.norm()) < 20
    quantizer(torch.randn(2, 200, DIM))
    assert float((codebook.embed[0, 3] - revived).norm()) < float(revived.norm())
    assert float(codebook.cluster_size[0, 3]) > 0.1 * float(codebook.cluster_size.mean())


def test_codebook_follows_the_data() -> None:
    """Euclidean VQ with codes to spare finds the centres of well separated clusters."""
    torch.manual_seed(0)
    centres = 10 * torch.randn(8, DIM)
    quantizer = build_quantizer(DIM, kind="vq", codebook_size=24, decay=0.8).train()
    for _ in range(30):
        quantizer(centres[torch.randint(8, (4, 64))] + 0.01 * torch.randn(4, 64, DIM))
    quantizer.eval()
    out = quantizer(centres[None])
    assert out.ids.unique().numel() == 8
    torch.testing.assert_close(out.features[0], centres, atol=0.1, rtol=0.05)


def test_each_residual_stage_reduces_the_error() -> None:
    quantizer = trained("rvq", steps=20)
    z = torch.randn(4, 100, DIM)
    ids = quantizer(z).ids
    errors = [float((quantizer.decode(ids[..., :q]) - z).square().mean()) for q in (1, 2, 3)]
    assert errors[0] > errors[1] > errors[2]


def test_quantizer_dropout_trains_the_first_stages_alone() -> None:
    torch.manual_seed(0)
    quantizer = build_quantizer(DIM, kind="rvq", codebook_size=16, num_codebooks=4, quantizer_dropout=1.0).train()
    z = torch.randn(64, 5, DIM)
    out = quantizer(z)
    exact = [quantizer.stages[0].get_codes_from_indices(out.ids[..., 0])]
    assert any(torch.allclose(f, e, atol=1e-4) for f, e in zip(out.features, exact[0], strict=True))
    assert not torch.allclose(out.features, quantizer.decode(out.ids), atol=1e-4)
    quantizer.eval()
    out = quantizer(z)
    torch.testing.assert_close(out.features, quantizer.decode(out.ids))


def test_masked_steps_teach_the_codebook_nothing() -> None:
    z = torch.randn(2, 30, DIM)
    mask = torch.arange(30) < torch.tensor([[30], [12]])
    poisoned = z.masked_fill(~mask[..., None], 1e4)
    books = []
    for x in (z, poisoned):
        torch.manual_seed(0)
        quantizer = build_quantizer(DIM, kind="vq", codebook_size=4).train()
        quantizer(x, mask)
        books.append(quantizer.stages[0]._codebook.embed.clone())
    torch.testing.assert_close(*books)


def test_synchronize_switches_every_codebook() -> None:
    module = nn.ModuleList([build_quantizer(DIM, **CONFIGS["rvq"]), build_quantizer(DIM, **CONFIGS["vq"])])
    synchronize(module, True)
    books = [stage._codebook for quantizer in module for stage in quantizer.stages]
    assert len(books) == 4
    assert all(book.use_ddp for book in books)
    synchronize(module, False)
    assert not any(book.use_ddp for book in books)


def test_usage_of_uniform_and_constant_ids() -> None:
    even = torch.arange(16).reshape(1, 16, 1)
    assert float(usage(even, (16,))["perplexity"]) == pytest.approx(16)
    assert float(usage(even, (32,))["codes_used"]) == pytest.approx(0.5)
    assert float(usage(torch.zeros(2, 5, 1, dtype=torch.long), (16,))["perplexity"]) == pytest.approx(1)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"kind": "pq"}, "must be one of"),
        ({"kind": "vq"}, "codebook_size"),
        ({"kind": "vq", "codebook_size": 8, "num_codebooks": 2}, "rvq"),
        ({"kind": "lfq", "codebook_size": 12}, "power of two"),
        ({"kind": "fsq", "levles": [3]}, "levles"),
    ],
)
def test_wrong_configs_are_refused_in_words(config: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        build_quantizer(DIM, **config)


@pytest.mark.parametrize("name", CONFIGS)
def test_an_untrained_quantizer_is_deterministic_and_stays_untrained(name: str) -> None:
    quantizer = build_quantizer(DIM, **CONFIGS[name]).eval()
    before = {k: v.clone() for k, v in quantizer.state_dict().items()}
    z = torch.randn(2, 30, DIM)
    assert torch.equal(quantizer(z).ids, quantizer(z).ids)
    assert len(quantizer(z).ids.unique()) > 1
    assert all(torch.equal(v, before[k]) for k, v in quantizer.state_dict().items())


def test_look_up_is_the_brute_force_nearest_code() -> None:
    quantizer = trained("vq")
    z = torch.randn(2, 40, DIM)
    codes = quantizer.stages[0].codebook
    nearest = (z[:, :, None] - codes).double().norm(dim=-1).argmin(dim=-1)
    assert torch.equal(quantizer(z).ids[..., 0], nearest)
