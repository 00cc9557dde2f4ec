"""Every invariant that the contract promises, for every card in the registry (random weights where none ship).

Codecs whose signals are strings have theirs in ``tests/text/test_text_conformance.py``."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tokenizers_mm as tm
from tokenizers_mm import bitstream, registry

NAMES = [card.name for card in tm.list_codecs() if card.modality != "text"]
LARGEST = 100e6  # parameters that a codec may have here, where every property is tried on one core

_DAC = {"encoder_hidden_size": 8, "decoder_hidden_size": 32, "hidden_size": 16}
_SPEECH = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
_HUBERT = {
    **_SPEECH,
    "model_type": "hubert",
    "conv_dim": [16] * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
}
_SCALAR = {
    **_SPEECH,
    "hidden_size": 64,  # group norms of 32 groups need more than one value each, even in a single step
    "num_key_value_heads": 2,
    "head_dim": 32,
    "encoder_hidden_size": 4,
    "quantization_dim": 96,
    "initializer_range": 0.3,  # the library's 0.02 makes every token of such a small network the same
    "semantic_model_config": {**_SPEECH, "model_type": "wav2vec2-bert"},
}
_MIMI = {
    "hidden_size": 16,
    "num_filters": 2,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "codebook_dim": 16,
    "vector_quantization_hidden_dimension": 16,
    "upsample_groups": 16,
}
_TITOK = {"dim": 16, "layers": 1, "heads": 2}
_GROUPS_OF_32 = {"channels": 32, "blocks": 1, "latent_channels": 32}
# By class: arguments that make a big network small and leave what its tokens are as it is.
REDUCED: dict[str, dict[str, Any]] = {
    "Encodec": {"n_filters": 4, "dim": 16, "lstm_layers": 1},
    "DAC": {"encoder_dim": 8, "latent_dim": 32, "decoder_dim": 32},
    "Mimi": {"network": _MIMI},
    "XCodec": {"acoustic": _DAC, "semantic": _HUBERT},
    "HiggsAudio": {"acoustic": _DAC, "semantic": _HUBERT},
    "XCodec2": {"network": _SCALAR},
    "NeuCodec": {"network": _SCALAR},
    "TFMTokenizer": {"decoder_layers": 1, "phase_iterations": 4},
    "LaBraMTokenizer": {"encoder_layers": 1, "decoder_layers": 1},
    "VQGAN": {"channels": 8, "decoder_channels": 8, "blocks": 1, "groups": 4},
    "VARTokenizer": {"channels": 8, "blocks": 1, "groups": 4},
    "OpenMAGVIT2": {"channels": 8, "blocks": 1, "groups": 4},
    "MaskGITVQ": {"channels": 8, "dim": 16, "blocks": 1, "groups": 4},
    "TiTok": {"encoder": _TITOK, "decoder": _TITOK, "maskgit": {"channels": 8, "dim": 16, "blocks": 1, "groups": 4}},
    "JanusVQVAE": _GROUPS_OF_32,
    "ChameleonVQVAE": {**_GROUPS_OF_32, "codebook_dim": 16},
    "Emu3VQVAE": {"channels": 32, "network": {"num_res_blocks": 1}},
    "SNAC": {"encoder_dim": 8, "decoder_dim": 64},
    "Vocos": {"n_filters": 4, "codebook_dim": 16, "dim": 48, "intermediate_dim": 64, "layers": 2},
}


def codec_of(name: str) -> tm.Codec:
    """A card's codec: the shipped weights, or random ones, of a reduced network where the published one is big."""
    card = registry.get_card(name)
    if card.shipped:
        return tm.load(name)
    overrides = REDUCED.get(card.class_path.rpartition(".")[2], {})
    with torch.device("meta"):
        parameters = sum(p.numel() for p in registry.build(card, **overrides).parameters())
    assert parameters < LARGEST, f"{name} has {parameters} parameters: give its class a small configuration in REDUCED"
    torch.manual_seed(0)
    codec = registry.build(card, **overrides)
    assert codec.spec == card.spec, "a reduced network must make the card's tokens"
    return codec


def audio(codec: tm.Codec, batch: int, steps: float, seed: int = 0) -> torch.Tensor:
    """A few random partials and noise at the codec's rate, ``steps`` token steps long."""
    generator = torch.Generator().manual_seed(seed)
    n = max(1, int(steps * codec.spec.hop[-1]))
    t = torch.arange(n) / codec.spec.sample_rate
    pitch = 80 + 300 * torch.rand(batch, codec.spec.channels, 1, generator=generator)
    tones = sum(torch.sin(2 * torch.pi * k * pitch * t) / k for k in range(1, 8))
    return 0.1 * tones + 0.01 * torch.randn(batch, codec.spec.channels, n, generator=generator)


def image(codec: tm.Codec, batch: int, steps: float, seed: int = 0) -> torch.Tensor:
    """Waves of colour and noise, ``steps`` tokens wide and one and a half high, where a token has a size in pixels."""
    generator = torch.Generator().manual_seed(seed)
    hop = hop_of(codec)
    y, x = torch.arange(hop + hop // 2)[:, None] / hop, torch.arange(max(1, int(steps * hop))) / hop
    phase = torch.rand(2, batch, 3, 1, 1, generator=generator) * 6
    waves = 0.5 + 0.4 * torch.sin(2 * x + phase[0]) * torch.cos(3 * y + phase[1])
    return (waves + 0.05 * torch.randn(waves.shape, generator=generator)).clamp(0, 1)


def hop_of(codec: tm.Codec) -> int:
    """Samples per step along the last axis; 16 where tokens have no place in the signal."""
    return codec.spec.hop[-1] if codec.spec.hop else 16


def series(codec: tm.Codec, batch: int, steps: float, seed: int = 0) -> torch.Tensor:
    """Two channels of random waves, a trend and noise, ``steps`` tokens long, far from zero and of some scale."""
    generator = torch.Generator().manual_seed(seed)
    n = max(1, int(steps * hop_of(codec)))
    phase = torch.rand(batch, 2, 1, generator=generator) * 6
    t = torch.arange(n) / 9
    return 40 + 12 * torch.sin(t + phase) + t + torch.randn(batch, 2, n, generator=generator)


def eeg(codec: tm.Codec, batch: int, steps: float, seed: int = 0) -> torch.Tensor:
    """Slow waves, alpha and noise in microvolts, ``steps`` token steps long, on the electrodes that a codec names or on three."""
    generator = torch.Generator().manual_seed(seed)
    channels = len(getattr(codec, "electrodes", "abc"))
    t = torch.arange(max(1, int(steps * codec.spec.hop[-1]))) / codec.spec.sample_rate
    phase = 6 * torch.rand(batch, channels, 1, generator=generator)
    waves = 40 * torch.sin(4 * t + phase) + 20 * torch.sin(2 * torch.pi * (8 + phase / 2) * t)
    return waves + 5 * torch.randn(waves.shape, generator=generator)


SIGNALS = {"audio": audio, "image": image, "eeg": eeg, "timeseries": series}


def signal(codec: tm.Codec, batch: int, steps: float, seed: int = 0) -> torch.Tensor:
    return SIGNALS[codec.spec.modality](codec, batch, steps, seed)


@pytest.fixture(params=NAMES, scope="module")  # one codec after the other, each built once
def codec(request: pytest.FixtureRequest) -> tm.Codec:
    return codec_of(request.param)


def test_encode_is_deterministic(codec: tm.Codec) -> None:
    x = signal(codec, 2, 6.5)
    assert codec.encode(x) == codec.encode(x)


def test_training_mode_does_not_leak_into_encode(codec: tm.Codec) -> None:
    x = signal(codec, 1, 6.5)
    before = codec.encode(x)
    weights = {k: v.clone() for k, v in codec.state_dict().items()}
    codec.train()
    try:
        assert codec.encode(x) == before
        assert codec.training
    finally:
        codec.eval()
    assert all(torch.equal(v, weights[k]) for k, v in codec.state_dict().items())


def test_tokens_do_not_depend_on_the_batch_or_on_padding(codec: tm.Codec) -> None:
    items = [signal(codec, 1, steps, seed)[0] for seed, steps in enumerate((9.0, 4.3, 4.3, 0.4))]
    longest = max(item.shape[-1] for item in items)
    for filler in (0.0, 0.7):  # what lies past an item's length must not matter
        padded = torch.full((len(items), *items[0].shape[:-1], longest), filler)
        for row, item in zip(padded, items, strict=True):
            row[..., : item.shape[-1]] = item
        together = codec.encode(padded, torch.tensor([item.shape[-1] for item in items]))
        decoded = codec.decode(together)
        for i, item in enumerate(items):
            alone = codec.encode(item[None])
            assert together[i] == alone
            torch.testing.assert_close(decoded[i][..., : item.shape[-1]], codec.decode(alone)[0], atol=1e-4, rtol=1e-4)
            assert not decoded[i][..., item.shape[-1] :].any()


def test_decode_returns_exactly_the_original_length(codec: tm.Codec) -> None:
    hop = hop_of(codec)
    for n in sorted({1, hop - 1, hop, hop + 1, 3 * hop + 7} - {0}):
        x = signal(codec, 1, 8)[..., :n]
        tokens = codec.encode(x)
        assert int(tokens.lengths[0]) == codec.spec.steps(x.shape[-codec.size_dims :])
        assert codec.decode(tokens).shape == x.shape


def test_ids_lie_inside_their_codebooks(codec: tm.Codec) -> None:
    tokens = codec.encode(signal(codec, 2, 12))
    sizes = torch.tensor(codec.spec.codebook_sizes)
    assert bool(((tokens.ids >= 0) & (tokens.ids < sizes)).all())
    assert tokens.spec == codec.spec


def test_save_and_load_gives_identical_tokens_and_signal(codec: tm.Codec, tmp_path) -> None:
    codec.save_pretrained(tmp_path)
    loaded = tm.load(str(tmp_path))
    x = signal(codec, 1, 5.2)
    tokens = codec.encode(x)
    assert loaded.encode(x) == tokens
    assert torch.equal(loaded.decode(tokens), codec.decode(tokens))
    assert loaded.config == codec.config


def test_tokens_survive_the_bitstream(codec: tm.Codec) -> None:
    tokens = codec.encode(signal(codec, 3, 7.7))
    assert bitstream.loads(bitstream.dumps(tokens)) == tokens


def test_token_counts_of_long_signals_equal_one_shot(codec: tm.Codec) -> None:
    if codec.spec.frame_rate is None:
        with pytest.raises(ValueError, match="no time axis"):
            codec.encode_long(signal(codec, 1, 3))
        return
    x = signal(codec, 1, 41.3)
    seconds = codec.spec.hop[-1] / codec.spec.sample_rate
    whole = codec.encode(x)
    pieces = list(x.split(1000, dim=-1))
    tokens = codec.encode_long(iter(pieces), window_seconds=10 * seconds, context_seconds=4 * seconds)
    assert torch.equal(tokens.shapes, whole.shapes)
    assert torch.equal(tokens.side["size"], whole.side["size"])
    parts = list(codec.decode_long(tokens, window_seconds=10 * seconds, context_seconds=4 * seconds))
    assert torch.cat(parts, dim=-1).shape == x.shape
    if codec.streamable:
        assert tokens == whole
        torch.testing.assert_close(torch.cat(parts, dim=-1), codec.decode(whole), atol=1e-5, rtol=1e-4)


def test_a_stream_equals_the_whole(codec: tm.Codec) -> None:
    if not codec.streamable:
        with pytest.raises(ValueError, match="not causal"):
            codec.stream()
        return
    x = signal(codec, 2, 14.6)
    whole = codec.encode(x)

    @settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(st.integers(0, 3 * codec.spec.hop[-1]), max_size=12))
    def check(cuts: list[int]) -> None:
        session, decoder = codec.stream(), codec.stream(decode=True)
        tokens, samples, rest = [], [], x
        for n in [*cuts, x.shape[-1]]:
            tokens.append(session.push(rest[..., :n]))
            rest = rest[..., n:]
        tokens.append(session.flush())
        ids = torch.cat([t.ids.unflatten(1, t.shape) for t in tokens], dim=-2)
        assert torch.equal(ids.flatten(1, -2), whole.ids)
        for t in tokens:
            samples.append(decoder.push(t))
        samples.append(decoder.flush())
        torch.testing.assert_close(
            torch.cat(samples, dim=-1)[..., : x.shape[-1]], codec.decode(whole), atol=1e-5, rtol=1e-4
        )

    check()


def test_training_forward_reaches_every_part(codec: tm.Codec) -> None:
    if sum(p.numel() for p in codec.parameters()) > 30e6:
        pytest.skip("the same class is covered by a smaller card; gradients at this size belong to the slow suite")
    x = signal(codec, 2, 10)
    weights = {k: v.clone() for k, v in codec.state_dict().items()}
    codec.train()
    try:
        try:
            output = codec(x)
        except NotImplementedError as error:
            pytest.skip(str(error))
        assert output.reconstruction.shape == x.shape
        assert output.ids.shape[::2] == (2, codec.spec.num_codebooks)
        (output.reconstruction.square().mean() + output.quantizer_loss).backward()
        missing = [name for name, p in codec.named_parameters() if p.requires_grad and p.grad is None]
        assert not missing
    finally:
        codec.zero_grad(set_to_none=True)
        codec.eval()
        codec.load_state_dict(weights)


@pytest.mark.parametrize(
    ("spoil", "error", "words"),
    [
        (lambda x: (x * 3e4).short(), TypeError, "int16"),
        (lambda x: x[0], ValueError, "expected"),
        (lambda x: x[..., :0], ValueError, "at least one sample"),
        (lambda x: x.index_fill(-1, torch.tensor([0]), float("nan")), ValueError, "NaN"),
        (lambda x: x.index_fill(-1, torch.tensor([0]), float("inf")), ValueError, "infinity"),
        (lambda x: x.tolist(), TypeError, "tensor"),
    ],
)
def test_bad_signals_are_refused_in_words(codec: tm.Codec, spoil, error, words) -> None:
    if words == "NaN" and codec.allows_missing:
        pytest.skip("NaN marks a missing sample")
    with pytest.raises(error, match=words):
        codec.encode(spoil(signal(codec, 1, 3)))


def test_missing_samples_stay_missing(codec: tm.Codec) -> None:
    if not codec.allows_missing:
        return
    x = signal(codec, 2, 9)
    x[0, ..., 2:4] = float("nan")
    tokens = codec.encode(x)
    assert torch.equal(codec.decode(tokens).isnan(), x.isnan())
    assert bitstream.loads(bitstream.dumps(tokens)) == tokens
    alone = codec.encode(x[1:])
    assert tokens[1] == alone
    assert torch.equal(codec.decode(alone), codec.decode(tokens)[1:])


def test_too_many_channels_and_wrong_rates_are_refused(codec: tm.Codec) -> None:
    x = signal(codec, 1, 3)
    if codec.spec.channels:
        with pytest.raises(ValueError, match="channels"):
            codec.encode(torch.cat([x, x], dim=1))
    if codec.spec.sample_rate:
        with pytest.raises(ValueError, match="12345 Hz"):
            codec.encode(x, sample_rate=12345)
    with pytest.raises(ValueError, match="lengths"):
        codec.encode(x, torch.tensor([x.shape[-1] + 1]))


def test_silence_and_one_sample_round_trip(codec: tm.Codec) -> None:
    x = torch.zeros_like(signal(codec, 1, 4))
    assert torch.isfinite(codec.reconstruct(x)).all()
    assert codec.reconstruct(x[..., :1]).shape == x[..., :1].shape


def test_tokens_of_another_codec_are_refused(codec: tm.Codec) -> None:
    tokens = codec.encode(signal(codec, 1, 3))
    other = tm.TokenSpec(
        codec.spec.modality, tuple(s + 1 for s in codec.spec.codebook_sizes), codec.spec.axes, codec.spec.hop
    )
    with pytest.raises(ValueError, match="another codec"):
        codec.decode(tm.Tokens(tokens.ids, other, tokens.shapes, tokens.side))
    with pytest.raises(TypeError, match="Tokens"):
        codec.decode(tokens.ids)


def test_fewer_codebooks_are_a_prefix(codec: tm.Codec) -> None:
    if codec.spec.scalable != "columns":
        with pytest.raises(ValueError, match=r"scalable|at least|no time axis"):
            codec.with_bitrate((codec.spec.bitrate or 1000) / 1000 / 2)
        return
    x = signal(codec, 1, 6)
    cheaper = codec.with_bitrate(codec.spec.prefix(1).bitrate / 1000)
    assert torch.equal(cheaper.encode(x).ids, codec.encode(x).ids[..., :1])
    assert cheaper.decode(cheaper.encode(x)).shape == x.shape
    torch.testing.assert_close(codec.decode(codec.encode(x).prefix(columns=1)), cheaper.reconstruct(x))


def test_any_first_scales_decode_to_the_whole_size(codec: tm.Codec) -> None:
    if codec.spec.scalable != "scales":
        return
    x = signal(codec, 2, 6)
    tokens = codec.encode(x)
    for scales in range(1, len(codec.spec.scales) + 1):
        fewer = tokens.prefix(scales=scales)
        assert fewer.ids.shape[1] == sum(codec.spec.scales[:scales])
        assert codec.decode(fewer).shape == x.shape
    assert torch.equal(codec.decode(fewer), codec.decode(tokens))


def test_class_is_public_from_its_modality(codec: tm.Codec) -> None:
    wing = importlib.import_module(f"tokenizers_mm.{codec.spec.modality}")
    assert getattr(wing, type(codec).__name__) is type(codec)
