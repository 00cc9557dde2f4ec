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
    "lfq-columns": {"kind": "lfq", "codebook_size": 2**18, "num_codebooks": 2, "bit_order": "lsb"},
    "bsq": {"kind": "bsq", "codebook_size": 2**36},
    "gradient": {"kind": "gradient_vq", "codebook_size": 32, "revive_below": 0.1, "entropy_weight": 0.1},
    "gradient-unit": {"kind": "gradient_vq", "codebook_size": 32, "codebook_dim": 4, "normalise": True},
    "ibq": {"kind": "ibq", "codebook_size": 32, "codebook_dim": 8},
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
    assert float(out.loss.detach()) == 0
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


def bits_of(ids: torch.Tensor, bits: int) -> torch.Tensor:
    """Binary digits of ids, least significant first, by Python's own integers."""
    return torch.tensor([[i >> b & 1 for b in range(bits)] for i in ids.flatten().tolist()]).reshape(*ids.shape, bits)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("kind", "bits"), [("lfq", 3), ("lfq", 18), ("lfq", 36), ("bsq", 18), ("bsq", 36), ("lfq", 62)]
)
@pytest.mark.parametrize("order", ["msb", "lsb"])
def test_signs_and_indices_are_a_bijection_in_every_type(kind: str, bits: int, order: str, dtype: torch.dtype) -> None:
    quantizer = build_quantizer(bits, kind, codebook_size=2**bits, bit_order=order).eval()
    ids = torch.randint(2**bits, (1, 300, 1)) if bits > 3 else torch.arange(8)[None, :, None]
    ids = torch.cat([ids, torch.tensor([0, 2**bits - 1]).reshape(1, 2, 1)], dim=1)
    codes = quantizer.decode(ids)
    assert torch.equal(quantizer(codes.to(dtype)).ids, ids)
    digits = bits_of(ids[..., 0], bits)
    assert torch.equal(codes > 0, (digits if order == "lsb" else digits.flip(-1)).bool())
    norm = 1.0 if kind == "bsq" else bits**0.5
    torch.testing.assert_close(codes.norm(dim=-1), torch.full((1, ids.shape[1]), norm))


def test_bits_spread_over_columns_in_order() -> None:
    whole = build_quantizer(36, "lfq", codebook_size=2**36).eval()
    split = build_quantizer(36, "lfq", codebook_size=2**18, num_codebooks=2).eval()
    z = torch.randn(2, 50, 36)
    high, low = split(z).ids.unbind(-1)
    assert torch.equal(whole(z).ids[..., 0], (high << 18) + low)


def test_library_and_ours_agree_on_lookup_free_codes_and_entropies() -> None:
    from vector_quantize_pytorch import LFQ

    torch.manual_seed(0)
    z = 0.01 * torch.randn(2, 40, 8)
    theirs = LFQ(
        dim=8, codebook_size=256, entropy_loss_weight=1.0, commitment_loss_weight=0.0, diversity_gamma=1.0
    ).train()
    ours = build_quantizer(8, "lfq", codebook_size=256, entropy_weight=1.0, commitment_weight=0.0).train()
    features, ids, loss = theirs(z)
    out = ours(z)
    assert torch.equal(out.ids[..., 0], ids)
    torch.testing.assert_close(out.features, features)
    torch.testing.assert_close(out.loss, loss, atol=1e-3, rtol=1e-3)


def test_sphere_entropies_are_the_published_closed_form() -> None:
    quantizer = build_quantizer(6, "bsq", codebook_size=64, entropy_weight=1.0).train()
    z = torch.randn(3, 20, 6)
    u = torch.nn.functional.normalize(z, dim=-1).reshape(-1, 6)
    p = (4 * u / 6**0.5).sigmoid()

    def entropy(p: torch.Tensor) -> torch.Tensor:
        return -(p * p.log() + (1 - p) * (1 - p).log())

    torch.testing.assert_close(quantizer(z).loss, entropy(p).sum(-1).mean() - entropy(p.mean(0)).sum())


def test_beta_may_lie_on_either_side() -> None:
    """Taming's published runs had it on the codebook's term: the same z gives 1 : 0.25 there and 0.25 : 1 as intended."""
    z = torch.randn(2, 30, DIM)
    parts = []
    for commitment, codebook in ((1.0, 0.25), (0.25, 1.0)):
        torch.manual_seed(0)
        quantizer = build_quantizer(
            DIM, "gradient_vq", codebook_size=16, commitment_weight=commitment, codebook_weight=codebook
        ).train()
        x = z.clone().requires_grad_()
        quantizer(x).loss.backward()
        parts.append((x.grad, quantizer.codebook.weight.grad))
    torch.testing.assert_close(parts[0][0], 4 * parts[1][0])
    torch.testing.assert_close(4 * parts[0][1], parts[1][1])


def test_index_backpropagation_reaches_every_code_and_selects_by_dot_product() -> None:
    quantizer = build_quantizer(DIM, "ibq", codebook_size=256).train()
    z = torch.randn(1, 8, DIM)
    out = quantizer(z)
    (out.features.square().sum() + out.loss).backward()
    assert int((quantizer.codebook.grad.abs().sum(-1) > 0).sum()) == 256
    assert torch.equal(out.ids[..., 0], (z @ quantizer.codebook.mT).argmax(-1))


def test_one_step_of_averages_without_memory_gives_cluster_means() -> None:
    quantizer = build_quantizer(DIM, "vq", codebook_size=4, decay=0.0, revive_below=0.0, kmeans_iters=0).train()
    z = torch.randn(1, 400, DIM)
    ids = quantizer.eval()(z).ids[..., 0]
    quantizer.train()(z)
    means = torch.stack([z[ids == k].mean(dim=0) for k in range(4)])
    torch.testing.assert_close(quantizer.stages[0].codebook, means, atol=1e-3, rtol=1e-3)


def test_large_searches_are_cut_without_changing_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    from tokenizers_mm.nn import quantizer as module

    z, codes = torch.randn(3, 17, 5), torch.randn(40, 5)
    wanted = torch.cdist(z, codes[None]).argmin(-1)
    for limit in (1, 100, 2**24):
        monkeypatch.setattr(module, "_SEARCHED_AT_ONCE", limit)
        assert torch.equal(module.nearest_code(z, codes), wanted)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"kind": "lfq", "codebook_size": 100}, "power of two"),
        ({"kind": "bsq", "codebook_size": 2**63}, "power of two"),
        ({"kind": "lfq", "codebook_size": 8, "bit_order": "big"}, "bit_order"),
        ({"kind": "fsq", "levels": [256] * 4}, r"2\*\*24"),
    ],
)
def test_impossible_codebooks_are_refused(options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        build_quantizer(DIM, **options)
