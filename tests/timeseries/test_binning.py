"""Chronos' bins: the published vectors, the published package id for id, and what the variants promise."""

from __future__ import annotations

import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenizers_mm.timeseries import ChronosBins
from tokenizers_mm.timeseries.binning import clip_rate

NAN = float("nan")


@pytest.fixture(scope="module")
def bins() -> ChronosBins:
    return ChronosBins()


def test_published_vectors(bins: ChronosBins) -> None:
    tokens = bins.encode(torch.tensor([[[1.0, 2, 3, 4]]]))
    assert tokens.ids.flatten().tolist() == [2104, 2158, 2213, 2267]
    assert tokens.side["scale"].tolist() == [[2.5]]
    torch.testing.assert_close(
        bins.decode(tokens).flatten(), torch.tensor([1.0081, 1.9978, 3.0059, 3.9956]), atol=1e-4, rtol=0
    )
    nothing = bins.encode(torch.full((1, 1, 7), NAN))
    assert nothing.ids.flatten().tolist() == [0] * 7
    assert nothing.side["scale"].tolist() == [[1.0]]
    assert bins.decode(nothing).isnan().all()


def test_limits_and_edges(bins: ChronosBins) -> None:
    values = torch.tensor([0.0, 15.0, 1e9, -15.0, -1e9, NAN])
    assert bins.quantize(values).tolist() == [2049, 4095, 4095, 3, 3, 0]
    edges = bins.edges
    assert torch.equal(bins.quantize(edges), torch.arange(len(edges)) + 4)  # a value on an edge goes up
    assert torch.equal(bins.quantize(edges.nextafter(torch.tensor(-99.0))), torch.arange(len(edges)) + 3)
    assert torch.equal(bins.quantize(bins.centers), torch.arange(4093) + 3)
    assert bins.values(torch.arange(4096)).isfinite().all()


def test_ids_equal_those_of_the_package(bins: ChronosBins) -> None:
    chronos = pytest.importorskip("chronos.chronos")
    config = chronos.ChronosConfig(
        "MeanScaleUniformBins", {}, 512, 64, 4096, 2, 0, 1, True, "seq2seq", 20, 1.0, 50, 1.0
    )
    theirs = chronos.MeanScaleUniformBins(-15.0, 15.0, config)
    generator = torch.Generator().manual_seed(0)
    for decade in range(-4, 5):
        x = (
            torch.randn(30, 512, generator=generator)
            * torch.exp(2 * torch.randn(30, 512, generator=generator))
            * 10.0**decade
        )
        x[torch.rand(x.shape, generator=generator) < 0.05] = NAN
        x[0], x[1] = 0.0, NAN
        ids, mask, scale = theirs.context_input_transform(x)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tokens = bins.encode(x[:, None])
        assert torch.equal(tokens.ids[..., 0], ids[:, :-1])
        assert torch.equal(tokens.side["scale"][:, 0], scale)
        assert torch.equal(~x.isnan(), mask[:, :-1])
        torch.testing.assert_close(
            bins.values(tokens.ids[..., 0]) * scale[:, None], theirs.output_transform(ids[:, None, :-1], scale)[:, 0]
        )


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 200), st.floats(1e-3, 1e6), st.integers(0, 10**6))
def test_errors_are_half_a_step_where_nothing_is_clipped(n: int, scale: float, seed: int) -> None:
    x = scale * torch.randn(1, 2, n, generator=torch.Generator().manual_seed(seed))
    bins = ChronosBins()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tokens = bins.encode(x)
    per_channel = tokens.side["scale"][..., None]
    inside = (x / per_channel).abs() <= 15
    assert ((bins.decode(tokens) - x).abs() <= 0.003667 * per_channel + 1e-5 * scale)[inside].all()


def test_bfloat16_is_scaled_in_float32_and_whole_numbers_are_refused(bins: ChronosBins) -> None:
    x = torch.randn(1, 1, 50).bfloat16()
    assert bins.encode(x) == bins.encode(x.float())
    with pytest.raises(TypeError, match=r"int64 \(x\.float\(\)\)"):
        bins.encode(torch.arange(4)[None, None])


def test_saturation_is_reported(bins: ChronosBins) -> None:
    rare = torch.zeros(1, 1, 400)
    rare[..., ::40] = 1000 * torch.rand(10)
    with pytest.warns(UserWarning, match=r"2\.\d% of the values are clipped"):
        tokens = bins.encode(rare)
    assert 0.01 < float(clip_rate(tokens)) < 0.03
    far = 1e6 + torch.sin(torch.arange(200.0))[None, None]
    with pytest.warns(UserWarning, match="1 of 1 series vary by less than two bins"):
        bins.encode(far)
    standard = ChronosBins(scaling="standard")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (standard.reconstruct(far) - far).abs().max() < 0.2  # float32 itself has steps of 1/16 there


def test_windows_have_scales_of_their_own() -> None:
    codec = ChronosBins(window=50)
    x = torch.cat([torch.randn(1, 1, 50), 1000 * torch.randn(1, 1, 50), torch.randn(1, 1, 7)], dim=-1)
    tokens = codec.encode(x)
    assert tokens.side["scale"].shape == (1, 3)
    assert torch.equal(tokens.ids[:, :50], codec.encode(x[..., :50]).ids)
    assert ((codec.decode(tokens) - x).abs()[..., :50]).max() < 0.01


def test_quantile_bins_are_used_evenly_once_fitted(tmp_path) -> None:
    codec = ChronosBins(vocabulary_size=67, spacing="quantile")
    x = torch.randn(4, 2, 1000).exp()
    codec.fit(x)
    counts = codec.encode(x).ids.flatten().bincount(minlength=67)[3:]
    assert counts.min() > 0.9 * counts.float().mean()
    codec.save_pretrained(tmp_path)
    assert ChronosBins.from_pretrained(tmp_path).encode(x) == codec.encode(x)
    with pytest.raises(ValueError, match="only spacing 'quantile'"):
        ChronosBins().fit(x)


def test_mu_law_bins_are_finer_near_zero_and_rise() -> None:
    centers = ChronosBins(vocabulary_size=259, spacing="mu-law").centers
    steps = centers.diff()
    assert (steps > 0).all()
    assert steps[127] < steps[0] / 50
    assert centers[[0, -1]].tolist() == pytest.approx([-15, 15])


@pytest.mark.parametrize(
    "wrong", [{"low": 1.0, "high": 1.0}, {"vocabulary_size": 4}, {"window": 0}, {"scaling": "max"}]
)
def test_wrong_settings_are_refused(wrong) -> None:
    with pytest.raises(ValueError, match=r"expected|must be"):
        ChronosBins(**wrong)
