"""Stability: shares that follow from toy codecs whose answer is known."""

import pytest
import torch
from torch import Tensor

from tokenizers_mm.codec import Codec, CodecOutput
from tokenizers_mm.evaluation.stability import STABILITY, stability
from tokenizers_mm.tokens import Tokens, TokenSpec


class Rounding(Codec):
    """Each sample's hundredths are its step's ids; ``drift`` moves what decode gives."""

    def __init__(self, hop: int = 8, drift: float = 0.0, whole: bool = False, step: float = 0.01) -> None:
        super().__init__()
        self.spec = TokenSpec("audio", (256,) * hop, hop=(hop,), sample_rate=1000)
        self.unit = torch.nn.Parameter(torch.tensor(step))
        self.drift, self.whole = drift, whole

    def _encode(self, x: Tensor, lengths: Tensor) -> Tokens:
        hop = self.spec.hop[0]
        x = torch.nn.functional.pad(x, (0, -x.shape[-1] % hop))[:, 0]
        if self.whole:  # every id depends on the whole signal
            x = x - x[:, :1]
        ids = (x / self.unit).round().long() + 128
        return Tokens(ids.clamp(0, 255).unflatten(1, (-1, hop)), self.spec)

    def _decode(self, tokens: Tokens) -> Tensor:
        return ((tokens.ids.flatten(1).float() - 128) * self.unit + self.drift)[:, None]

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> CodecOutput:
        raise NotImplementedError


def signal(n: int = 803) -> Tensor:
    return 0.5 * torch.sin(torch.arange(n) / 7.0)[None, None]


def test_a_lossless_step_is_stable_under_everything_but_part_of_a_hop():
    shares = stability(Rounding(), signal())
    assert set(shares) == set(STABILITY)
    assert shares["idempotence"] == 1
    assert shares["shift_by_hop"] == 1
    assert shares["shift_by_part"] < 0.3
    assert 0.5 < shares["noise"] < 1


def test_a_drifting_decoder_is_not_idempotent():
    shares = stability(Rounding(drift=0.02), signal())
    assert shares["idempotence"] < 0.1
    assert shares["shift_by_hop"] == 1


def test_a_codec_that_sees_the_whole_signal_does_not_stand_a_shift():
    assert stability(Rounding(whole=True), signal() + 0.1)["shift_by_hop"] < 0.2


def test_coarser_steps_stand_more_noise():
    fine, coarse = (stability(Rounding(step=step), signal())["noise"] for step in (0.005, 0.1))
    assert fine < coarse


def test_shares_are_counted_over_all_codebooks():
    codec = Rounding()
    x = signal(16)
    tokens = codec.encode(x)
    ids = tokens.ids.clone()
    ids[0, 0, 0] += 1
    assert stability(codec, x, Tokens(ids, codec.spec, side=tokens.side))["shift_by_hop"] == 1
    ids[0, 1, 0] += 1
    assert stability(codec, x, Tokens(ids, codec.spec, side=tokens.side))["shift_by_hop"] == 7 / 8


def test_what_is_not_defined_is_none():
    short = stability(Rounding(), signal(8))
    assert (short["shift_by_hop"], short["shift_by_part"]) == (None, None)
    assert short["idempotence"] == 1
    assert stability(Rounding(hop=2), signal())["shift_by_part"] is None
    assert set(stability(Rounding(drift=float("nan")), signal()).values()) == {None}


def test_the_same_answer_every_time():
    codec = Rounding()
    assert stability(codec, signal()) == stability(codec, signal())
    assert stability(codec, signal())["noise"] == pytest.approx(
        stability(codec, signal(), codec.encode(signal()))["noise"]
    )
