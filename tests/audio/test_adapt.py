"""adapt: any rate and channel count around any audio codec, lengths exact, tokens unchanged where nothing needs adapting."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import tokenizers_mm as tm
from tokenizers_mm.audio import WavTokenizer, adapt
from tokenizers_mm.audio.files import resample
from tokenizers_mm.codec import Codec, CodecOutput


class Samples(Codec):
    """The samples themselves, rounded to 16 bits: a codec of any number of channels that hears everything."""

    def __init__(self, sample_rate: int = 16000, channels: int = 1) -> None:
        super().__init__()
        self.spec = tm.TokenSpec("audio", (2**16,) * channels, hop=(1,), sample_rate=sample_rate, channels=channels)

    def _encode(self, x: Tensor, lengths: Tensor) -> tm.Tokens:
        return tm.Tokens((x.clamp(-1, 0.9999).mT * 32768).round().long() + 32768, self.spec)

    def _decode(self, tokens: tm.Tokens) -> Tensor:
        return (tokens.codes - 32768).float() / 32768

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> CodecOutput:
        raise NotImplementedError


@pytest.fixture(scope="module")
def codec() -> WavTokenizer:
    torch.manual_seed(0)
    return WavTokenizer(
        sample_rate=16000, strides=[4, 4, 4, 5], encoder="stft", encoder_dim=8, encoder_layers=1, dim=16,
        intermediate_dim=16, layers=1, attention=False, num_embeddings=0,
        quantizer={"kind": "rvq", "codebook_size": 16, "num_codebooks": 2},
    ).eval()  # fmt: skip


def tone(channels: int, samples: int, rate: int) -> Tensor:
    t = torch.arange(samples) / rate
    pitch = torch.tensor([440.0, 1000.0, 300.0])[:channels, None]
    return 0.3 * torch.sin(2 * torch.pi * pitch * t)[None]


@settings(max_examples=25, deadline=None)
@given(
    rate=st.sampled_from([8000, 16000, 22050, 24000, 44100, 48000]),
    lengths=st.lists(st.integers(1, 4000), min_size=1, max_size=3),
    channels=st.integers(1, 3),
    policy=st.sampled_from(["mix", "each"]),
)
def test_every_length_and_channel_count_comes_back(codec, rate, lengths, channels, policy) -> None:
    adapted = adapt(codec, rate, policy)
    n = torch.tensor(lengths)
    x = 0.1 * torch.randn(len(lengths), channels, max(lengths), generator=torch.Generator().manual_seed(0))
    tokens = adapted.encode(x, n)
    count = channels if policy == "each" else 1
    assert tokens.spec == codec.spec
    assert tokens.lengths.tolist() == [
        codec.spec.steps(math.ceil(k * 16000 / rate)) for k in lengths for _ in range(count)
    ]
    y = adapted.decode(tokens)
    assert y.shape == (len(lengths), count, max(lengths))
    for item, k in zip(y, lengths, strict=True):
        assert not item[:, k:].any()


def test_items_do_not_depend_on_their_batch_or_padding(codec) -> None:
    adapted = adapt(codec, 44100, "each")
    x = 0.1 * torch.randn(2, 2, 9000, generator=torch.Generator().manual_seed(0))
    together = adapted.encode(x, torch.tensor([9000, 5003]))
    alone = adapted.encode(x[1:, :, :5003])
    assert together[2:] == alone
    torch.testing.assert_close(adapted.decode(together)[1:, :, :5003], adapted.decode(alone), atol=1e-5, rtol=1e-4)


def test_nothing_changes_where_nothing_needs_adapting(codec) -> None:
    x = tone(1, 5000, 16000)
    plain, adapted = codec.encode(x), adapt(codec, 16000, "native")
    tokens = adapted.encode(x)
    assert torch.equal(tokens.ids, plain.ids)
    assert torch.equal(adapted.decode(tokens), codec.decode(plain))
    assert torch.equal(codec.decode(tokens), codec.decode(plain))  # the codec itself reads them, at its own rate


@pytest.mark.parametrize("rate", [8000, 22050, 44100])
def test_signals_survive_with_their_channels_apart(rate: int) -> None:
    x = tone(3, rate // 2, rate)
    y = adapt(Samples(16000), rate, "each").reconstruct(x)
    inner = slice(rate // 20, -rate // 20)
    torch.testing.assert_close(y[..., inner], x[..., inner], atol=2e-3, rtol=0)


def test_mix_is_the_mean_and_native_keeps_channels() -> None:
    x = tone(2, 4000, 16000)
    mixed = adapt(Samples(), 16000, "mix").reconstruct(x)
    torch.testing.assert_close(mixed, x.mean(dim=1, keepdim=True), atol=4e-5, rtol=0)
    stereo = Samples(channels=2)
    torch.testing.assert_close(adapt(stereo, 16000, "native").reconstruct(x), x, atol=4e-5, rtol=0)
    torch.testing.assert_close(adapt(stereo, 16000, "mix").reconstruct(x), mixed, atol=8e-5, rtol=0)
    torch.testing.assert_close(adapt(stereo, 16000, "each").reconstruct(x), x, atol=8e-5, rtol=0)


def test_encoding_is_the_codecs_own_on_the_resampled_signal(codec) -> None:
    x = tone(2, 8000, 44100)
    tokens = adapt(codec, 44100, "mix").encode(x)
    assert torch.equal(tokens.ids, codec.encode(resample(x.mean(dim=1, keepdim=True), 44100, 16000)).ids)


def test_tokens_survive_files_and_slicing(codec, tmp_path) -> None:
    adapted = adapt(codec, 44100, "each")
    tokens = adapted.encode(0.1 * torch.randn(3, 2, 3001), torch.tensor([3001, 5, 2000]))
    tokens.save(tmp_path / "a.mmt")
    loaded = tm.Tokens.load(tmp_path / "a.mmt")
    assert torch.equal(adapted.decode(loaded), adapted.decode(tokens))
    assert adapted.decode(tokens[4:]).shape == (1, 2, 2000)
    assert adapted.decode(tm.Tokens.cat([tokens[4:], tokens[:2]])).shape == (2, 2, 3001)


def test_wrong_tokens_are_refused_in_words(codec) -> None:
    adapted = adapt(codec, 44100, "each")
    tokens = adapted.encode(tone(2, 3000, 44100))
    with pytest.raises(ValueError, match="every channel of each recording"):
        adapted.decode(tokens[:1])
    with pytest.raises(ValueError, match="every channel of each recording"):
        adapted.decode(tokens[[1, 0]])
    with pytest.raises(ValueError, match="48000 Hz recordings, got \\[44100\\]"):
        adapt(codec, 48000).decode(tokens)
    with pytest.raises(ValueError, match="from an adapted codec"):
        adapted.decode(codec.encode(tone(1, 3000, 16000)))
    with pytest.raises(TypeError, match="Tokens"):
        adapted.decode(tokens.ids)


@pytest.mark.parametrize(("x", "lengths", "error", "words"), [
    (torch.zeros(2, 100), None, ValueError, r"\[B, C, N\] at 44100 Hz"),
    (torch.zeros(1, 1, 0), None, ValueError, r"\[1, 1, 0\]"),
    (torch.zeros(1, 1, 9, dtype=torch.int16), None, TypeError, "int16"),
    ([0.0], None, TypeError, "list"),
    (torch.zeros(2, 1, 9), torch.tensor([9, 10]), ValueError, "1 to 9"),
    (torch.zeros(2, 1, 9), torch.tensor([9.0, 1.0]), ValueError, "whole numbers"),
    (torch.full((1, 1, 900), float("nan")), None, ValueError, "NaN"),
])  # fmt: skip
def test_bad_signals_are_refused_in_words(codec, x, lengths, error, words) -> None:
    with pytest.raises(error, match=words):
        adapt(codec, 44100).encode(x, lengths)


def test_bad_policies_are_refused_in_words(codec) -> None:
    with pytest.raises(ValueError, match="'mix', 'each' or 'native', got 'stereo'"):
        adapt(codec, 44100, "stereo")
    with pytest.raises(ValueError, match=r"whole number of Hz, got 0"):
        adapt(codec, 0)
    codec_of_another = Samples()
    codec_of_another.spec = replace(codec_of_another.spec, modality="eeg")
    with pytest.raises(ValueError, match="audio codec, got one of eeg"):
        adapt(codec_of_another, 44100)
    with pytest.raises(ValueError, match="2 channels"):
        adapt(codec, 44100, "native").encode(torch.zeros(1, 2, 900))
