"""The generator: determinism, the corpus's rules on every sample, every anomaly and waveform on its own."""

from __future__ import annotations

import numpy as np
import pytest

from tokenizers_mm.timeseries.synthetic import Sample, generate
from tokenizers_mm.timeseries.synthetic.multivariate import LARGEST_LAG, draw_edges, draw_links, propagate
from tokenizers_mm.timeseries.synthetic.sample import intervals
from tokenizers_mm.timeseries.synthetic.seasonal import COMMON, OF_PULSE, OF_SINE, OF_WAVELETS, _changed
from tokenizers_mm.timeseries.synthetic.shapes import WEIGHTS, draw_height, draw_shape
from tokenizers_mm.timeseries.synthetic.trends import TRENDS, _stable, draw_noise, draw_trend
from tokenizers_mm.timeseries.synthetic.waves import FAMILIES, KINDS, draw_season, draw_wave, table


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    return [generate(3, index) for index in range(120)]


@pytest.fixture(scope="module")
def several() -> list[Sample]:
    return [generate(3, index, (2, 12), (1000, 2000)) for index in range(25)]


def same(a: Sample, b: Sample) -> bool:
    arrays = ((a.series, b.series), (a.normal, b.normal), (a.labels, b.labels))
    return all(np.array_equal(x, y) for x, y in arrays) and a.attributes == b.attributes


def test_a_sample_is_a_function_of_seed_and_number(samples: list[Sample], several: list[Sample]) -> None:
    assert same(generate(3, 5), samples[5])
    assert same(generate(3, 5, (2, 12), (1000, 2000)), several[5])
    assert not same(generate(4, 5), samples[5])
    assert not same(samples[4], samples[5])


@pytest.mark.parametrize("which", ["samples", "several"])
def test_the_rules_of_the_corpus(which: str, request: pytest.FixtureRequest) -> None:
    for sample in request.getfixturevalue(which):
        n = len(sample.labels)
        assert 1000 <= n <= 10_000
        assert sample.series.shape == sample.normal.shape
        assert sample.series.shape[1] == n
        assert sample.series.dtype == sample.normal.dtype == np.float32
        assert 0 < sample.labels.mean() <= 0.35
        assert np.abs(sample.series).max() <= 3
        assert set(np.unique(sample.labels)) == {0, 1}
        assert np.isfinite(sample.normal).all()
        for start, end in intervals(sample.labels):
            assert (sample.series[:, start:end] != sample.normal[:, start:end]).any()
        assert np.allclose(sample.series.mean(axis=1), 0, atol=1e-5)


def test_a_shifted_level_is_normal(samples: list[Sample]) -> None:
    shifts = ("sudden increase", "sudden decrease")
    found = [(s, a) for s in samples for a in s.attributes["anomalies"] if a[0] in shifts]
    assert found
    for sample, (_, _, end) in found:
        after = slice(end, len(sample.labels))
        unlabelled = sample.labels[after] == 0
        assert (sample.series[0, after] != sample.normal[0, after])[unlabelled].all()


def test_before_the_first_anomaly_the_twins_are_equal(samples: list[Sample]) -> None:
    for sample in samples:
        first = intervals(sample.labels)[0][0]
        np.testing.assert_allclose(sample.series[0, :first], sample.normal[0, :first], atol=1e-5)


def test_anomalies_are_drawn_by_their_weights() -> None:
    rng = np.random.default_rng(0)
    from tokenizers_mm.timeseries.synthetic.waves import choose

    drawn = [choose(rng, WEIGHTS) for _ in range(4000)]
    total = sum(WEIGHTS.values())
    for kind, weight in WEIGHTS.items():
        assert drawn.count(kind) / 4000 == pytest.approx(weight / total, abs=0.025)


@pytest.mark.parametrize("kind", WEIGHTS)
def test_every_local_anomaly_is_what_its_name_says(kind: str) -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        height = draw_height(rng, kind, base=1.0, deviation=0.01)
        shape = draw_shape(rng, kind, 2000, height)
        assert height > 0
        assert 0 < len(shape) <= 0.35 * 2000
        assert np.abs(shape.values).max() > 0
        words = kind.replace(",", "").split()
        if kind.startswith(
            ("upward", "wide upward", "continuous upward", "rapid rise", "slow rise", "sudden increase")
        ):
            assert (shape.values >= 0).all()
            assert shape.level >= 0
        if kind.startswith(("downward", "wide downward", "continuous downward", "rapid decline", "slow decline")):
            assert (shape.values <= 0).all()
        stays = "sudden" in words or "after" in words
        assert (shape.level != 0) == stays
        if kind.endswith("decrease") or words[0] == "decrease":
            assert shape.level < 0
        if kind.endswith("increase") or words[0] == "increase":
            assert shape.level > 0


def test_outliers_and_spikes_stand_out_of_noise() -> None:
    rng = np.random.default_rng(0)
    heights = [
        draw_height(rng, kind, base=1e-9, deviation=1.0) for kind in ("outlier", "upward spike", "upward convex")
    ]
    assert heights == [6, 6, 3]
    assert draw_height(rng, "outlier", 1e-9, 1.0, factor=2.0) == 12


@pytest.mark.parametrize("kind", KINDS)
def test_every_waveform_repeats_and_has_its_amplitude(kind: str) -> None:
    for seed in range(10):
        wave = draw_wave(np.random.default_rng(seed), kind)
        cycles = np.linspace(0, 1, 400, endpoint=False)
        if kind != "sine":  # whose amplitude changes slowly
            np.testing.assert_allclose(wave(cycles), wave(cycles + 3), atol=1e-6)
    for seed in range(20):
        season = draw_season(np.random.default_rng(seed), 3000, amplitude=2.5)
        values = season.render(3000)
        assert np.ptp(values) == pytest.approx(2.5)
        assert values.mean() == pytest.approx(0, abs=1e-9)
        assert 10 <= season.period <= 1500


def test_wavelets_have_tables() -> None:
    for family in FAMILIES:
        assert np.abs(table(family)).max() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize(
    ("wave", "kind"),
    [
        *(("sine", kind) for kind in (COMMON | OF_SINE)),
        *(("square", kind) for kind in OF_PULSE),
        *(("triangle", kind) for kind in OF_PULSE),
        *(("wavelet", kind) for kind in OF_WAVELETS),
    ],
)
def test_every_seasonal_anomaly_changes_the_season(wave: str, kind: str) -> None:
    if kind == "none":
        return
    changed = 0
    for seed in range(12):
        rng = np.random.default_rng(seed)
        season = draw_season(rng, 2000, 1.0)
        season = type(season)(draw_wave(rng, wave), 80.0, 1.0)
        place = np.arange(160, 480) / season.period
        before = season.at(place)
        after = _changed(rng, kind, season, place, before)
        assert after.shape == before.shape
        changed += np.abs(after - before).max() > 0.02
    assert changed >= 10


@pytest.mark.parametrize("kind", TRENDS)
def test_trends_start_at_zero_and_stay_in_bounds(kind: str) -> None:
    for seed in range(20):
        trend = draw_trend(np.random.default_rng(seed), kind, 1500, 4.0)
        assert trend.shape == (1500,)
        assert trend[0] == pytest.approx(0)
        assert np.ptp(trend) <= 2 * 4.0 + 1e-9
        if kind in ("increase", "decrease"):
            assert (np.diff(trend) * (1 if kind == "increase" else -1) >= -1e-12).all()


def test_arma_polynomials_have_their_roots_inside_the_unit_circle() -> None:
    rng = np.random.default_rng(0)
    assert max(np.abs(np.roots(_stable(rng))).max() for _ in range(300)) < 1


def test_noise_has_its_deviation() -> None:
    noise, deviation = draw_noise(np.random.default_rng(0), "low", 200_000, 2.0, None)
    assert deviation == pytest.approx(0.01 * 5 * 2.0)
    assert noise.std() == pytest.approx(deviation, rel=0.01)


def test_graphs_have_no_path_longer_than_three() -> None:
    for seed in range(200):
        rng = np.random.default_rng(seed)
        count = int(rng.integers(2, 51))
        edges = draw_edges(rng, count)
        longest = np.zeros(count, int)
        for _ in range(count):
            for i, j in edges:
                longest[j] = max(longest[j], longest[i] + 1)
        assert longest.max() <= 3
        assert len(edges) >= 1
        assert len(set(edges)) == len(edges)
        if count == 2:
            assert len(edges) == 1


def test_lags_are_those_of_the_links() -> None:
    for seed in range(20):
        links = draw_links(np.random.default_rng(seed), 10)
        own = np.random.default_rng(0).standard_normal((10, 300))
        undisturbed = propagate(own, links)
        for child, link in links.items():
            assert all(0 <= lag <= LARGEST_LAG for _, lag, _ in link.parents)
            parent, lag, _ = link.parents[0]
            if link.activation != "identity" or sum(p == parent for p, _, _ in link.parents) != 1 or parent in links:
                continue
            pushed = own.copy()
            pushed[parent, 150] += 5
            if sum(p in links or p == parent for p, _, _ in link.parents) > 1:
                continue  # it may arrive on another way
            changed = np.flatnonzero(np.abs(propagate(pushed, links, undisturbed)[child] - undisturbed[child]) > 1e-12)
            assert changed[0] == 150 + lag


def test_endogenous_anomalies_reach_other_variates(several: list[Sample]) -> None:
    reached = 0
    for sample in several:
        differs = (sample.series != sample.normal).any(axis=1)
        node = sample.attributes["node"]
        assert differs[node]
        if not sample.attributes["endogenous"]:
            assert differs.sum() == 1
        reached += differs.sum() > 1
    assert reached > 2


@pytest.mark.parametrize(
    "arguments", [{"seed": -1}, {"index": -1}, {"variates": 0}, {"variates": (5, 2)}, {"lengths": (10, 20)}]
)
def test_bad_arguments(arguments: dict) -> None:
    with pytest.raises(ValueError, match="must be"):
        generate(**{"seed": 0, "index": 0, **arguments})
