"""Bits for the same quality, in the HTML report: every curve and every codec against the curves of the baselines."""

from __future__ import annotations

from typing import Any

from tokenizers_mm.evaluation.bd_rate import Point, bd_rate, rate_difference
from tokenizers_mm.evaluation.html_table import family, measured, titles
from tokenizers_mm.evaluation.report import Report

Curves = dict[str, list[Point]]


def comparisons(report: Report) -> dict[str, dict[str, Any]]:
    """For each condition and metric: the baselines with several rates as anchors, and a row of differences per coder.

    A coder with several rates has its BD-rate in per cent, one with a single rate the difference at that point's quality; a cell
    that can't be filled has the reason instead.
    """
    found: dict[str, dict[str, Any]] = {}
    for condition in dict.fromkeys(result.condition for result in report.codecs):
        tables = {key: _table(*_curves(report, condition, key)) for key in measured(report)}
        found[condition] = {key: table for key, table in tables.items() if table["anchors"]}
    return found


def _curves(report: Report, condition: str, key: str) -> tuple[Curves, Curves]:
    """Points (rate, quality that grows) of each codec, also as a language model codes it, and of each family of baselines."""
    sign = 1.0 if report.definitions[key].better == "higher" else -1.0
    codecs: Curves = {}
    baselines: Curves = {}
    for result, title in zip(report.codecs, titles(report), strict=True):
        mean, rate = result.metrics[key].mean, result.file_rate
        if result.condition != condition or mean is None or not rate:
            continue
        if result.kind == "codec":
            codecs.setdefault(title, []).append((rate, sign * mean))
            if result.lm_rate:
                codecs.setdefault(f"{title} with LM", []).append((result.lm_rate, sign * mean))
        else:
            baselines.setdefault(family(result.codec), []).append((rate, sign * mean))
    return codecs, baselines


def _table(codecs: Curves, baselines: Curves) -> dict[str, Any]:
    anchors = [name for name, points in baselines.items() if len(points) > 1]
    rows = {**codecs, **{name: baselines[name] for name in anchors}}
    return {
        "anchors": anchors,
        "rows": [
            {"name": name, "codec": name in codecs, "cells": [_cell(baselines[anchor], points) for anchor in anchors]}
            for name, points in rows.items()
        ],
    }


def _cell(anchor: list[Point], points: list[Point]) -> dict[str, Any]:
    if anchor == points:
        return {"value": None, "reason": ""}
    try:
        single = len(points) == 1
        difference = rate_difference(anchor, points[0]) if single else bd_rate(anchor, points)
    except ValueError as error:
        return {"value": None, "reason": str(error)}
    low, high = sorted(map(abs, difference.overlap))
    return {
        "value": float(f"{difference.value:.4g}"),
        "reason": f"at {low:.4g}" if single else f"from {low:.4g} to {high:.4g}",
    }
