"""Long signals: constant memory, exact counts, seamless joins."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenizers_mm.audio import WavTokenizer

TINY = {
    "sample_rate": 16000,
    "strides": [2, 4, 5, 8],
    "encoder": "stft",
    "encoder_dim": 16,
    "encoder_layers": 1,
    "dim": 16,
    "intermediate_dim": 32,
    "layers": 1,
    "quantizer": {"kind": "fsq"},
    "num_embeddings": 0,
}


@pytest.fixture(scope="module")
def local() -> WavTokenizer:
    """A codec that sees a few frames only, so that windows with enough context change nothing."""
    torch.manual_seed(0)
    return WavTokenizer(**TINY, attention=False).eval()


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(1, 30000),
    piece=st.integers(1, 9000),
    window=st.floats(0.1, 1.0),
    context=st.sampled_from([0.2, 0.4, 0.9]),
)
def test_windows_with_enough_context_equal_the_whole(local, n: int, piece: int, window: float, context: float) -> None:
    x = 0.1 * torch.randn(1, 1, n, generator=torch.Generator().manual_seed(n))
    whole = local.encode(x)
    tokens = local.encode_long(x.split(piece, -1), window_seconds=window, context_seconds=context)
    assert tokens == whole
    parts = list(local.decode_long(tokens, window_seconds=window, context_seconds=2 * context))
    torch.testing.assert_close(torch.cat(parts, -1), local.decode(whole), atol=1e-5, rtol=1e-4)


def test_a_tensor_an_iterator_and_unbatched_pieces_are_one(local) -> None:
    x = 0.1 * torch.randn(1, 1, 20000)
    assert local.encode_long(x) == local.encode_long(iter(x[0].split(3000, -1))) == local.encode(x)


def test_a_batch_of_equal_lengths_is_fine(local) -> None:
    x = 0.1 * torch.randn(3, 1, 20000)
    assert local.encode_long(x, window_seconds=0.3, context_seconds=0.3) == local.encode(x)


def test_borders_are_seamless_even_where_the_network_sees_everything() -> None:
    """Cross-fading keeps the step at a window's border as small as elsewhere, attention over the whole clip or not."""
    torch.manual_seed(0)
    codec = WavTokenizer(**TINY).eval()
    tokens = codec.encode(0.1 * torch.randn(1, 1, 48000))
    y = torch.cat(list(codec.decode_long(tokens, window_seconds=0.5, context_seconds=0.2)), -1)
    step = y.diff().abs()[0, 0]
    borders = torch.tensor([step[i - 1 : i + 1].max() for i in range(8000, 48000, 8000)])
    assert borders.max() <= step.quantile(0.9999)


def test_nothing_and_nonsense_are_refused(local) -> None:
    with pytest.raises(ValueError, match="at least one sample"):
        local.encode_long(iter([]))
    with pytest.raises(ValueError, match="window_seconds"):
        local.encode_long(torch.zeros(1, 1, 10), window_seconds=0)
    with pytest.raises(ValueError, match="context_seconds"):
        local.encode_long(torch.zeros(1, 1, 10), context_seconds=-1)
    with pytest.raises(ValueError, match="one item"):
        list(local.decode_long(local.encode(torch.zeros(2, 1, 640))))


MEMORY = """
    import resource, sys, torch
    from tokenizers_mm.audio import WavTokenizer
    torch.set_num_threads(1)
    codec = WavTokenizer(**{config!r}, causal={causal}).eval()
    def pieces(minutes):
        for _ in range(minutes):
            yield 0.1 * torch.randn(1, 1, 16000 * 60)
    def use(minutes):
        tokens = codec.encode_long(pieces(minutes))
        n = sum(part.shape[-1] for part in codec.decode_long(tokens))
        assert n == minutes * 60 * 16000
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    short = use(2)
    print(use({minutes}) - short)
"""


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("minutes", [15, pytest.param(180, marks=pytest.mark.slow)])
def test_memory_does_not_grow_with_the_signal(causal: bool, minutes: int) -> None:
    code = textwrap.dedent(MEMORY.format(config=TINY, causal=causal, minutes=minutes))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    samples_mib = minutes * 60 * 16000 * 4 / 2**20
    assert float(done.stdout) < max(0.25 * samples_mib, 30), f"{done.stdout.strip()} MiB more for {samples_mib:.0f} MiB"
