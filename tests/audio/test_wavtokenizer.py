"""WavTokenizer: the published counts and lengths, its options, and what its causal configuration promises."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tokenizers_mm.audio import WavTokenizer

TINY = {
    "sample_rate": 16000,
    "strides": [2, 4, 5, 8],
    "n_filters": 4,
    "encoder_dim": 32,
    "dim": 32,
    "intermediate_dim": 64,
    "layers": 2,
    "encoder_layers": 2,
    "quantizer": {"kind": "vq", "codebook_size": 64},
}


def tiny(**changes) -> WavTokenizer:
    torch.manual_seed(0)
    codec = WavTokenizer(**{**TINY, **changes}).train()
    codec(0.1 * torch.randn(2, 1, 32000))  # k-means start
    return codec.eval()


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("strides", "encoder", "head", "total", "bitrate"),
    [((4, 5, 5, 6), 8_303_104, 1_847_138, 72_111_714, 480), ((2, 4, 5, 8), 8_802_816, 985_858, 71_750_146, 900)],
)
def test_published_sizes(strides, encoder, head, total, bitrate) -> None:
    with torch.device("meta"):
        codec = WavTokenizer(strides=strides)
    assert count(codec.encoder) == encoder
    assert count(codec.backbone) == 61_961_472
    assert count(codec.backbone.embed) == 2_753_280
    assert count(codec.backbone.front) == 16_539_648
    assert count(codec.backbone.convnext) + count(codec.backbone.norm) == 42_660_864 + 6_144
    assert count(codec.head) == head
    assert count(codec) == total
    assert not list(codec.quantizer.parameters())
    assert sum(b.numel() for b in codec.quantizer.buffers() if b.ndim or b.dtype == torch.bool) == 4_198_401
    assert codec.spec.bitrate == bitrate


@pytest.mark.parametrize(
    ("strides", "counts"), [((4, 5, 5, 6), (40, 40, 41, 1, 219)), ((2, 4, 5, 8), (75, 75, 76, 1, 410))]
)
def test_published_token_counts(strides, counts) -> None:
    codec = WavTokenizer(**{**TINY, "sample_rate": 24000, "strides": strides}).eval()
    for n, steps in zip((24000, 23999, 24001, 100, 131040), counts, strict=True):
        tokens = codec.encode(0.1 * torch.randn(1, 1, n))
        assert tokens.ids.shape == (1, steps, 1)
        assert codec.decode(tokens).shape[-1] == n
        assert codec._decode(tokens).shape[-1] == steps * codec.hop_length


@pytest.mark.parametrize("encoder", ["seanet", "stft"])
@pytest.mark.parametrize("causal", [False, True])
@settings(max_examples=12, deadline=None)
@given(n=st.integers(1, 4000))
def test_any_length_gives_ceil_steps_and_comes_back(encoder, causal, n) -> None:
    codec = WavTokenizer(**{**TINY, "encoder": encoder, "causal": causal}).eval()
    x = 0.1 * torch.randn(1, 1, n)
    tokens = codec.encode(x)
    assert int(tokens.lengths[0]) == -(-n // 320) == codec.spec.steps(n)
    assert codec.decode(tokens).shape == x.shape


@pytest.mark.parametrize(
    "quantizer",
    [
        {"kind": "vq", "codebook_size": 64},
        {"kind": "rvq", "codebook_size": 16, "num_codebooks": 2},
        {"kind": "fsq", "levels": [4, 4, 4]},
        {"kind": "lfq", "codebook_size": 64},
        {"kind": "simvq", "codebook_size": 64},
    ],
)
@pytest.mark.parametrize("encoder", ["seanet", "stft"])
def test_every_quantizer_drops_in_and_trains(quantizer, encoder) -> None:
    codec = tiny(quantizer=quantizer, encoder=encoder).train()
    optimizer = torch.optim.Adam(codec.parameters(), 3e-3)
    t = torch.arange(16000) / 16000
    x = 0.3 * torch.sin(2 * torch.pi * torch.tensor([[[220.0]], [[330.0]]]) * t)
    window = torch.hann_window(512)

    def losses() -> tuple[torch.Tensor, torch.Tensor]:
        out = codec(x)
        a, b = (torch.stft(y[:, 0], 512, window=window, return_complex=True).abs() for y in (out.reconstruction, x))
        return (a - b).abs().mean(), out.quantizer_loss

    first = float(losses()[0].detach())
    for _ in range(40):
        optimizer.zero_grad()
        spectral, auxiliary = losses()
        (spectral + 0.01 * auxiliary).backward()
        optimizer.step()
    assert float(spectral.detach()) < 0.8 * first


def test_dropout_acts_in_training_only() -> None:
    codec = tiny(dropout=0.5, num_embeddings=0, quantizer={"kind": "fsq"})
    x = 0.1 * torch.randn(1, 1, 6400)
    assert torch.equal(codec(x).reconstruction, codec(x).reconstruction)
    codec.train()
    assert not torch.equal(codec(x).reconstruction, codec(x).reconstruction)


def test_decode_of_tokens_equals_decode_of_features() -> None:
    codec = tiny()
    x = 0.1 * torch.randn(1, 1, 6400)
    with torch.no_grad():
        torch.testing.assert_close(codec.reconstruct(x), codec(x).reconstruction, atol=1e-6, rtol=1e-5)


def test_conditions_are_drawn_in_training_and_fixed_in_inference() -> None:
    codec = tiny(dropout=0.0, quantizer={"kind": "fsq"})
    for norm in (m for m in codec.backbone.modules() if hasattr(m, "scale") and isinstance(m.scale, nn.Embedding)):
        nn.init.normal_(norm.shift.weight)
    x = 0.1 * torch.randn(1, 1, 6400)
    codec.train()
    drawn = {round(float(codec(x).reconstruction.detach().abs().sum()), 4) for _ in range(40)}
    assert len(drawn) == 4
    assert torch.equal(codec.reconstruct(x), codec.reconstruct(x))


def test_a_causal_codec_never_looks_ahead() -> None:
    codec = tiny(causal=True)
    x = 0.1 * torch.randn(1, 1, 9600)
    y = x.clone()
    y[..., 6400:] = 0.5
    assert torch.equal(codec.encode(x).ids[:, :20], codec.encode(y).ids[:, :20])


def test_several_sessions_do_not_disturb_each_other() -> None:
    codec = tiny(causal=True)
    a, b = 0.1 * torch.randn(2, 1, 1, 6400)
    one, two = codec.stream(), codec.stream()
    ids_a, ids_b = [], []
    for piece_a, piece_b in zip(a.split(700, -1), b.split(700, -1), strict=True):
        ids_a.append(one.push(piece_a).ids)
        ids_b.append(two.push(piece_b).ids)
    assert torch.equal(torch.cat([*ids_a, one.flush().ids], 1), codec.encode(a).ids)
    assert torch.equal(torch.cat([*ids_b, two.flush().ids], 1), codec.encode(b).ids)
    # a flushed session starts anew
    assert torch.equal(torch.cat([one.push(b).ids, one.flush().ids], 1), codec.encode(b).ids)


def test_streaming_memory_does_not_grow_with_the_stream() -> None:
    codec = tiny(causal=True)
    encoder, decoder = codec.stream(), codec.stream(decode=True)

    def held() -> int:
        states = [*encoder.state.values(), *decoder.state.values()]
        tensors = [t for state in states for t in (state if isinstance(state, tuple) else (state,))]
        return sum(t.untyped_storage().nbytes() for t in tensors)

    sizes = []
    for _ in range(4):
        decoder.push(encoder.push(0.1 * torch.randn(1, 1, 320 * 80)))
        sizes.append(held())
    assert sizes[-1] == sizes[1]


def test_latency_is_reported() -> None:
    codec = tiny(causal=True)
    assert codec.stream().latency_seconds == pytest.approx(0.02)
    assert codec.stream(decode=True).latency_seconds == pytest.approx(1.5 * 0.02)


def test_sessions_refuse_what_does_not_fit() -> None:
    codec = tiny(causal=True)
    session = codec.stream()
    session.push(torch.zeros(2, 1, 100))
    with pytest.raises(ValueError, match="batch of 2"):
        session.push(torch.zeros(1, 1, 100))
    with pytest.raises(ValueError, match="at least one sample"):
        codec.stream().flush()
    with pytest.raises(TypeError, match="int16"):
        session.push(torch.zeros(2, 1, 100, dtype=torch.int16))
    with pytest.raises(ValueError, match="another codec"):
        codec.stream(decode=True).push(
            tiny(quantizer={"kind": "vq", "codebook_size": 32}).encode(torch.zeros(1, 1, 640))
        )


def test_unknown_encoder_is_refused() -> None:
    with pytest.raises(ValueError, match="'seanet' or 'stft'"):
        WavTokenizer(encoder="mel")
