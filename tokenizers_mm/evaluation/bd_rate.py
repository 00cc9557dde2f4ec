"""Bjontegaard's differences of two rate-distortion curves (VCEG-M33, 2001), with the monotone cubic interpolation of JCTVC-L1100.

The area between two curves of quality over log rate, divided by the stretch that they share: how many per cent fewer bits for the
same quality (BD-rate, negative is better), or how much more quality at the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Point = tuple[float, float]


@dataclass(frozen=True)
class BD:
    """The difference of one curve from another.

    Args:
        value: Per cent of the rate, or units of the quality.
        overlap: The stretch of quality (or of rate) that both curves cover, on which it was taken.
    """

    value: float
    overlap: tuple[float, float]


def bd_rate(anchor: Sequence[Point], test: Sequence[Point]) -> BD:
    """Mean difference in rate at equal quality, in per cent of the anchor's rate.

    Args:
        anchor: At least two points (rate, quality), quality growing with rate.
        test: The same of the codec in question.

    Raises:
        ValueError: If a curve has fewer than two points, a rate is not positive, quality does not grow with rate, or the curves
            have no quality in common.
    """
    curves = [_curve(name, points) for name, points in (("anchor", anchor), ("test", test))]
    low, high = _overlap([quality for _, quality in curves], "quality")
    areas = [_area(quality, rate, low, high) for rate, quality in curves]
    return BD(100 * (float(np.exp((areas[1] - areas[0]) / (high - low))) - 1), (low, high))


def bd_quality(anchor: Sequence[Point], test: Sequence[Point]) -> BD:
    """Mean difference in quality at equal rate (BD-PSNR where quality is PSNR); arguments and errors as in :func:`bd_rate`."""
    curves = [_curve(name, points) for name, points in (("anchor", anchor), ("test", test))]
    low, high = _overlap([rate for rate, _ in curves], "rate")
    areas = [_area(rate, quality, low, high) for rate, quality in curves]
    return BD((areas[1] - areas[0]) / (high - low), (float(np.exp(low)), float(np.exp(high))))


def rate_difference(anchor: Sequence[Point], point: Point) -> BD:
    """How much more or less rate one point takes than the anchor's curve at the same quality, in per cent of the anchor's.

    Args:
        anchor: At least two points (rate, quality), quality growing with rate.
        point: Of a codec with a single rate.

    Raises:
        ValueError: If the anchor is no curve, or doesn't reach that quality or falls below it.
    """
    from scipy.interpolate import PchipInterpolator

    (rate, quality), (of_point, wanted) = _curve("anchor", anchor), point
    if not quality[0] <= wanted <= quality[-1]:
        raise ValueError(f"the quality {wanted:.4g} is outside of the anchor's, {quality[0]:.4g} to {quality[-1]:.4g}")
    needed = float(np.exp(PchipInterpolator(quality, rate)(wanted)))
    return BD(100 * (of_point / needed - 1), (wanted, wanted))


def _curve(name: str, points: Sequence[Point]) -> tuple[np.ndarray, np.ndarray]:
    """Log rates and qualities, both strictly growing."""
    if len(points) < 2 or any(rate <= 0 for rate, _ in points):
        raise ValueError(f"{name} must have at least two points of positive rate, got {list(points)}")
    rate, quality = np.array(sorted(points), dtype=float).T
    if not (np.diff(quality) > 0).all() or not (np.diff(rate) > 0).all():
        raise ValueError(f"{name} must have a quality that grows with rate, got {sorted(points)}")
    return np.log(rate), quality


def _overlap(ranges: list[np.ndarray], what: str) -> tuple[float, float]:
    low, high = max(float(r[0]) for r in ranges), min(float(r[-1]) for r in ranges)
    if low >= high:
        spans = " and ".join(f"{r[0]:.4g} to {r[-1]:.4g}" for r in ranges)
        raise ValueError(f"the curves have no {what} in common: {spans}" + (" (log)" if what == "rate" else ""))
    return low, high


def _area(x: np.ndarray, y: np.ndarray, low: float, high: float) -> float:
    from scipy.interpolate import PchipInterpolator

    return float(PchipInterpolator(x, y).integrate(low, high))
