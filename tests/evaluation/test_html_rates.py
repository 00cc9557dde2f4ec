"""Bits for the same quality: curves against curves, single points against curves, and reasons where there is none."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from tokenizers_mm.evaluation.bd_rate import rate_difference
from tokenizers_mm.evaluation.html_rates import comparisons

CURVE = [(1.0, 20.0), (2.0, 26.0), (4.0, 32.0)]


def result(name: str, rate: float, value: float | None, kind: str = "baseline", condition: str = "clean"):
    metrics = {
        "quality": SimpleNamespace(mean=value, count=1),
        "fault": SimpleNamespace(mean=value and -value, count=1),
    }
    return SimpleNamespace(codec=name, kind=kind, condition=condition, file_rate=rate, lm_rate=None, metrics=metrics)


def report(*results):
    definitions = {"quality": SimpleNamespace(better="higher"), "fault": SimpleNamespace(better="lower")}
    return SimpleNamespace(codecs=results, definitions=definitions, headline=())


def test_a_point_is_compared_with_the_rate_that_a_curve_takes_for_its_quality() -> None:
    assert rate_difference(CURVE, (1.0, 26.0)).value == pytest.approx(-50)
    assert rate_difference(CURVE, (4.0, 26.0)).value == pytest.approx(100)
    assert rate_difference(CURVE, (4.0, 32.0)).value == pytest.approx(0)
    with pytest.raises(ValueError, match="8 is outside of the anchor's, 20 to 32"):
        rate_difference(CURVE, (1.0, 8.0))
    with pytest.raises(ValueError, match="at least two points"):
        rate_difference(CURVE[:1], (1.0, 20.0))


@pytest.mark.parametrize("key", ["quality", "fault"])
def test_every_coder_is_compared_with_every_family_of_baselines(key: str) -> None:
    old = [result(f"Old q{i}", rate, quality) for i, (rate, quality) in enumerate(CURVE)]
    new = [result(f"New q{i}", rate / 2, quality) for i, (rate, quality) in enumerate(CURVE)]
    codecs = [result("good", 1.0, 26.0, "codec"), result("bad", 1.0, 3.0, "codec"), result("none", 1.0, None, "codec")]
    table = comparisons(report(*codecs, *old, *new, result("Single", 1.0, 30.0)))["clean"][key]
    assert table["anchors"] == ["Old", "New"]
    cells = {row["name"]: [cell["value"] for cell in row["cells"]] for row in table["rows"]}
    assert cells["good"] == pytest.approx([-50, 0])
    assert cells["Old"] == [None, pytest.approx(100)]
    assert cells["New"] == [pytest.approx(-50), None]
    assert cells["bad"] == [None, None]
    assert "none" not in cells
    assert "Single" not in cells
    row = next(row for row in table["rows"] if row["name"] == "bad")
    assert row["codec"]
    assert "outside of the anchor's" in row["cells"][0]["reason"]


def test_conditions_do_not_mix_and_without_curves_there_is_no_table() -> None:
    clean = [result(f"Old q{i}", rate, quality) for i, (rate, quality) in enumerate(CURVE)]
    found = comparisons(report(*clean, result("Old q9", 9.0, 40.0, condition="noisy")))
    assert found["noisy"] == {}
    assert len(found["clean"]["quality"]["rows"]) == 1
