from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tokenizers_mm.training.schedule import build_scheduler, warmup_cosine


@given(warmup=st.integers(0, 50), length=st.integers(1, 200), floor=st.floats(0, 1))
def test_rises_to_one_then_falls_to_the_floor(warmup, length, floor):
    total = warmup + length
    factors = [warmup_cosine(s, warmup_steps=warmup, total_steps=total, floor=floor) for s in range(total + 3)]
    assert factors[:warmup] == sorted(factors[:warmup])
    assert all(0 < f <= 1 for f in factors[:warmup])
    assert factors[warmup] == 1
    assert factors[warmup:] == sorted(factors[warmup:], reverse=True)
    assert factors[total:] == pytest.approx([floor] * 3)


def test_halfway_down_the_cosine_is_the_mean_of_peak_and_floor():
    assert warmup_cosine(60, warmup_steps=20, total_steps=100, floor=0.2) == pytest.approx(0.6)


def test_without_a_horizon_the_rate_stays():
    assert warmup_cosine(10**9, warmup_steps=5, total_steps=math.inf) == 1


def test_each_parameter_group_ends_at_the_same_smallest_rate():
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr} for lr in (1e-2, 1e-3)]
    optimizer = torch.optim.SGD(groups)
    scheduler = build_scheduler(optimizer, warmup_steps=0, total_steps=4, min_lr=1e-4)
    for _ in range(4):
        optimizer.step()
        scheduler.step()
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([1e-4, 1e-4])


def test_a_smallest_rate_above_the_rate_is_refused():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-3)
    with pytest.raises(ValueError, match="min_lr"):
        build_scheduler(optimizer, warmup_steps=0, total_steps=4, min_lr=1e-2)
