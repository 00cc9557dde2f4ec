"""Long audio for every card: as many tokens and samples as at once, and no call of a network sees more than a window."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest
import torch
from torch import Tensor

from tokenizers_mm import registry
from tokenizers_mm.codec import Codec
from tokenizers_mm.evaluation.long_signals import measure_long
from tokenizers_mm.tokens import Tokens

QUICK = ("wavtokenizer-speech-16k", "wavtokenizer-causal")
CARDS = [
    pytest.param(card.name, marks=() if card.name in QUICK else pytest.mark.slow)
    for card in registry.list_codecs(modality="audio")
]
WINDOW, CONTEXT = 0.5, 0.25  # seconds
LONGEST = 2 * (WINDOW + 2 * CONTEXT)  # rounding to whole steps or blocks, and a piece that waits


@pytest.mark.parametrize("name", CARDS)
@pytest.mark.parametrize("seconds", [0.03, 2.31])
def test_counts_are_those_of_one_shot_and_memory_is_a_windows(
    name: str, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    codec = registry.build(registry.get_card(name))
    rate, channels = round(codec.spec.sample_rate or 1), codec.spec.channels or 1
    n = round(seconds * rate) + 7
    seen = watch(codec, monkeypatch)
    tokens = codec.encode_long(pieces(n, channels, rate // 7), window_seconds=WINDOW, context_seconds=CONTEXT)
    assert tokens.shapes.tolist() == [list(codec.spec.grid(n))]
    assert tokens.side["size"].tolist() == [[n]]
    parts = list(codec.decode_long(tokens, window_seconds=WINDOW, context_seconds=CONTEXT))
    assert sum(part.shape[-1] for part in parts) == n
    assert all(part.isfinite().all() for part in parts)
    longest = max(LONGEST * rate, least_window(codec))
    assert max(seen) <= longest
    assert max(part.shape[-1] for part in parts) <= longest


def pieces(n: int, channels: int, size: int) -> Iterator[Tensor]:
    """The signal as a file is read: never there as a whole."""
    generator = torch.Generator().manual_seed(n)
    for start in range(0, n, size):
        yield 0.1 * torch.randn(channels, min(size, n - start), generator=generator)


def least_window(codec: Codec) -> int:
    """Samples that a network cannot do with less of: a codec's own windows, a block of steps with one of context each side."""
    hop = (codec.spec.hop or (1,))[-1]
    return max(2 * codec.spec.window, 4 * codec.spec.block * hop)


def watch(codec: Codec, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Samples, or the samples that tokens stand for, of every call of the network."""
    seen: list[int] = []
    hop = (codec.spec.hop or (1,))[-1]
    methods = (f"{half}{part}" for half in ("_encode", "_decode") for part in ("", "_step", "_window"))
    for method in filter(partial(hasattr, codec), methods):  # a codec of its own windows has a pair of methods for one

        def call(signal: Tensor | Tokens, *rest: object, real=getattr(codec, method), **named: object) -> object:
            ids = signal.ids if isinstance(signal, Tokens) else signal
            whole = ids.shape[-1] if ids.is_floating_point() else ids.shape[1] * hop
            seen.append(whole)
            return real(signal, *rest, **named)

        monkeypatch.setattr(codec, method, call)
    return seen


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "channels", "steps"), [("wavtokenizer-causal", 1, 72 * 50), ("eeg-waveform", 64, 64 * 180)]
)
def test_a_recording_goes_through_files_in_processes_of_their_own(name: str, channels: int, steps: int) -> None:
    run = measure_long(name, hours=0.02, channels=channels)
    assert run.exact
    assert run.expected_steps == steps
    assert run.encode_seconds > 0 < run.decode_seconds
    if run.encode_bytes is not None:
        assert 50e6 < run.encode_bytes < 2e9 > run.decode_bytes


@pytest.mark.parametrize("hours", [0, -1, float("nan"), float("inf")])
def test_impossible_lengths_are_refused(hours: float) -> None:
    with pytest.raises(ValueError, match="hours must be a positive number"):
        measure_long("wavtokenizer-causal", hours=hours)
