from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tokenizers_mm.training.ema import WeightAverage


def small_module() -> nn.Module:
    module = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    return module


@settings(max_examples=20, deadline=None)
@given(values=st.lists(st.floats(-5, 5, width=32), min_size=1, max_size=30), decay=st.floats(0, 0.999))
def test_equals_the_recurrence(values, decay):
    module = nn.Linear(1, 1, bias=False)
    average = WeightAverage(module, decay)
    expected = float(module.weight.detach())
    for n, value in enumerate(values):
        module.weight.data.fill_(value)
        average.update(module)
        keep = min(decay, (1 + n) / (10 + n))
        expected = keep * expected + (1 - keep) * value
    np.testing.assert_allclose(float(average.module.weight), expected, rtol=1e-4, atol=1e-5)


def test_an_unchanging_module_is_its_own_average_exactly():
    module = small_module()
    average = WeightAverage(module, 0.9)
    for _ in range(10):
        average.update(module)
    for name, value in module.state_dict().items():
        assert torch.equal(average.module.state_dict()[name], value), name


def test_counters_are_copied_and_the_average_stays_in_evaluation_mode():
    module = small_module()
    average = WeightAverage(module, 0.999)
    average.train()
    module(torch.randn(4, 2))
    average.update(module)
    assert int(average.module[1].num_batches_tracked) == 1
    assert not any(m.training for m in average.modules())
    assert not any(p.requires_grad for p in average.parameters())


def test_a_restored_average_continues_as_if_never_stopped():
    module = small_module()
    one = WeightAverage(module, 0.99)
    for _ in range(3):
        module[0].weight.data.add_(1)
        one.update(module)
    two = WeightAverage(module, 0.99)
    two.load_state_dict(one.state_dict())
    module[0].weight.data.add_(1)
    one.update(module)
    two.update(module)
    assert torch.equal(one.module[0].weight, two.module[0].weight)


def test_decay_of_one_is_refused():
    with pytest.raises(ValueError, match="decay"):
        WeightAverage(small_module(), 1.0)
