"""EnCodec over transformers: the published tables, exact lengths and batches, windows, streams, converted weights."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import tokenizers_mm as tm
from tokenizers_mm import Tokens, TokenSpec, bitstream

pytest.importorskip("transformers", minversion="5")

from tokenizers_mm.audio import Encodec
from tokenizers_mm.audio.convert.encodec import convert_encodec
from tokenizers_mm.registry import get_card

SMALL: dict[str, Any] = {"n_filters": 4, "dim": 8, "lstm_layers": 1, "codebook_size": 64, "num_codebooks": 4}
SCALED: dict[str, Any] = {
    **SMALL,
    "sample_rate": 480,
    "channels": 2,
    "strides": [2, 4],
    "causal": False,
    "norm": "time_group_norm",
    "normalize": True,
    "window_seconds": 1.0,
    "overlap": 0.1,
}


def noise(n: int, batch: int = 1, channels: int = 1, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 0.3 * torch.randn(batch, channels, n, generator=generator).cumsum(-1).tanh()


@pytest.fixture(scope="module")
def causal() -> Encodec:
    torch.manual_seed(0)
    return Encodec(**SMALL).eval()


@pytest.fixture(scope="module")
def windowed() -> Encodec:
    """A stereo codec of windows like the published one, with 480 samples in place of 48,000."""
    torch.manual_seed(0)
    return Encodec(**SCALED).eval()


@pytest.fixture(scope="module")
def published() -> dict[str, Encodec]:
    torch.manual_seed(0)
    return {rate: tm.load(f"encodec-{rate}khz", pretrained=False) for rate in ("24", "32", "48")}


# --- the published models


def test_published_sizes(published) -> None:
    params = {rate: sum(p.numel() for p in codec.parameters()) for rate, codec in published.items()}
    assert params["24"] == 14_851_810
    assert params["48"] == 14_856_294
    assert published["24"].spec == Encodec().spec
    assert [published[rate].spec.bitrate for rate in ("24", "32")] == [24000, 2200]
    assert published["48"].spec.frame_rate == pytest.approx(150 * 48000 / 47520)


@pytest.mark.parametrize(
    ("rate", "kbps", "columns"),
    [("24", k, q) for k, q in ((1.5, 2), (3, 4), (6, 8), (12, 16), (24, 32))]
    + [("48", k, q) for k, q in ((3, 2), (6, 4), (12, 8), (24, 16))]
    + [("32", 2.2, 4)],
)
def test_published_bandwidths_are_numbers_of_codebooks(published, rate: str, kbps: float, columns: int) -> None:
    assert published[rate].with_bitrate(kbps).spec.num_codebooks == columns


def test_ids_and_signals_are_the_librarys(published) -> None:
    for rate, n, kbps in (("24", 24001, 6.0), ("48", 50000, 6.0), ("32", 7000, 2.2)):
        codec = published[rate].with_bitrate(kbps)
        x = noise(n, channels=codec.spec.channels)
        tokens = codec.encode(x)
        with torch.no_grad():
            theirs = codec.model.encode(x, bandwidth=kbps)
            signal = codec.model.decode(
                theirs.audio_codes, theirs.audio_scales, last_frame_pad_length=theirs.last_frame_pad_length
            ).audio_values
        codes = torch.cat(list(theirs.audio_codes), dim=-1)  # [B, Q, T]
        assert torch.equal(tokens.codes, codes[..., : tokens.ids.shape[1]])
        torch.testing.assert_close(codec.decode(tokens), signal[..., :n], atol=1e-6, rtol=0)


def test_frame_counts_of_the_published_models(published) -> None:
    assert published["24"].encode(noise(24001)).ids.shape == (1, 76, 32)
    tokens = published["48"].encode(noise(50000, channels=2))
    assert tokens.ids.shape == (1, 150 + 8, 16)
    assert tokens.side["scale"].shape == (1, 2)
    assert published["48"].spec.steps(48000) == 152
    assert published["48"].spec.steps(47520) == 149
    assert published["48"].spec.window_steps(152) == [150, 2]


def test_a_second_to_last_window_that_is_not_full_decodes(published) -> None:
    """The library fails to stack such windows; 95,100 samples end 60 samples after the third window starts."""
    codec, n = published["48"].with_bitrate(3.0), 2 * 47520 + 60
    x = noise(n, channels=2)
    tokens = codec.encode(x)
    assert codec.spec.window_steps(tokens.ids.shape[1]) == [150, 149, 1]
    assert codec.decode(tokens).shape == x.shape


# --- lengths and batches


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 3000), min_size=1, max_size=4))
def test_unequal_batches_equal_single_items(causal, lengths: list[int]) -> None:
    """Clips shorter than a kernel, than its padding and than a hop included: each end is mirrored where that item ends."""
    batch = torch.full((len(lengths), 1, max(lengths)), 0.7)
    for row, n in zip(batch, lengths, strict=True):
        row[:, :n] = noise(n, seed=n)[0]
    together = causal.encode(batch, torch.tensor(lengths))
    for i, n in enumerate(lengths):
        assert together[i] == causal.encode(noise(n, seed=n))


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 2000), min_size=1, max_size=3))
def test_unequal_numbers_of_windows_equal_single_items(windowed, lengths: list[int]) -> None:
    batch = torch.full((len(lengths), 2, max(lengths)), 0.7)
    for row, n in zip(batch, lengths, strict=True):
        row[:, :n] = noise(n, channels=2, seed=n)[0]
    together = windowed.encode(batch, torch.tensor(lengths))
    assert bitstream.loads(bitstream.dumps(together)) == together
    for i, (n, signal) in enumerate(zip(lengths, windowed.decode(together), strict=True)):
        alone = windowed.encode(noise(n, channels=2, seed=n))
        assert together[i] == alone
        torch.testing.assert_close(signal[None, :, :n], windowed.decode(alone), atol=1e-5, rtol=1e-4)


@settings(deadline=None)
@given(size=st.integers(0, 5000), hop=st.integers(1, 50), window=st.integers(1, 600), overlap=st.floats(0, 0.5))
def test_steps_of_windows_are_those_of_each_window(size: int, hop: int, window: int, overlap: float) -> None:
    window = max(window, hop)
    stride = math.ceil(window * (1 - overlap))
    spec = TokenSpec("audio", (8,), hop=(hop,), sample_rate=100, window=window, stride=stride)
    windows = [min(window, size - start) for start in range(0, size, stride)]
    steps = [math.ceil(n / hop) for n in windows]
    assert spec.steps(size) == sum(steps)
    assert spec.window_steps(sum(steps)) == steps
    longest = spec.samples(sum(steps))
    assert longest >= size
    assert spec.steps(longest) == sum(steps) < spec.steps(longest + 1)
    assert TokenSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


def test_specs_without_windows_keep_their_fingerprint() -> None:
    spec = TokenSpec("audio", (1024,), hop=(320,), sample_rate=24000)
    assert not {"window", "stride"} & spec.to_dict().keys()
    assert spec.fingerprint == "e965369741da1957"
    for bad in (
        {"window": 100, "stride": 50},
        {"window": 640, "stride": 300},
        {"window": 640, "stride": 641},
        {"stride": 5},
    ):
        with pytest.raises(ValueError, match="window"):
            TokenSpec("audio", (1024,), hop=(320,), sample_rate=24000, **bad)


def test_tokens_without_a_signal_have_whole_steps(windowed, causal) -> None:
    ids = torch.randint(0, 64, (1, 70, 4))
    tokens = Tokens(ids, windowed.spec, side={"scale": torch.ones(1, 2)})
    assert windowed.decode(tokens).shape[-1] == windowed.spec.samples(70) == 432 + 80
    assert float(tokens.bitrate[0]) == pytest.approx(70 * 24 / (512 / 480))
    assert causal.decode(Tokens(ids, causal.spec)).shape[-1] == 70 * 320
    with pytest.raises(ValueError, match=r"side\['scale'\] \[B, 2\]"):
        windowed.decode(Tokens(ids, windowed.spec))


@pytest.mark.parametrize("n", [1, 431, 432, 433, 480, 481, 864 + 47, 2000])
@pytest.mark.parametrize("piece", [100, 480, 5000])
def test_long_signals_go_window_by_window_exactly(windowed, n: int, piece: int) -> None:
    x = noise(n, channels=2)
    whole = windowed.encode(x)
    assert windowed.encode_long(iter(x.split(piece, -1))) == windowed.encode_long(x[0].split(piece, -1)) == whole
    parts = list(windowed.decode_long(whole))
    assert torch.equal(torch.cat(parts, dim=-1), windowed.decode(whole))
    assert max(part.shape[-1] for part in parts) <= 480


def test_long_signals_pass_window_by_window(windowed, monkeypatch) -> None:
    """Encoding takes a piece only when the windows before it are encoded; decoding gives each piece before the next window."""
    events: list[str] = []
    encode, decode = windowed._encode_window, windowed._decode_window
    monkeypatch.setattr(windowed, "_encode_window", lambda x: (events.append("window"), encode(x))[1])
    monkeypatch.setattr(windowed, "_decode_window", lambda *a: (events.append("window"), decode(*a))[1])
    x = noise(10 * 480, channels=2)
    tokens = windowed.encode_long(events.append("piece") or piece for piece in x.split(480, -1))
    assert "".join(event[0] for event in events) == 10 * "pw" + "ww"
    events.clear()
    for _ in windowed.decode_long(tokens):
        events.append("out")
    assert "".join(event[0] for event in events) == "w" + 11 * "wo" + "o"


def test_long_signals_are_checked(windowed) -> None:
    with pytest.raises(ValueError, match="at least one sample"):
        windowed.encode_long(iter([]))
    with pytest.raises(ValueError, match="channels"):
        windowed.encode_long(noise(100))
    two = windowed.encode(noise(600, batch=2, channels=2))
    with pytest.raises(ValueError, match="one item"):
        windowed.decode_long(two)


# --- streams


def pushed(codec: Encodec, x: Tensor, cuts: list[int]) -> tuple[Tensor, Tensor]:
    """Ids and signal of ``x`` pushed in pieces through an encoding and a decoding session."""
    encoder, decoder = codec.stream(), codec.stream(decode=True)
    tokens, samples = [], []
    for n in [*cuts, x.shape[-1]]:
        tokens.append(encoder.push(x[..., :n]))
        samples.append(decoder.push(tokens[-1]))
        x = x[..., n:]
    tokens.append(encoder.flush())
    samples += [decoder.push(tokens[-1]), decoder.flush()]
    return torch.cat([t.ids for t in tokens], dim=1), torch.cat(samples, dim=-1)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 6000), st.lists(st.integers(0, 1500), max_size=8))
def test_streams_equal_the_whole_for_every_length_and_cut(causal, n: int, cuts: list[int]) -> None:
    x = noise(n, batch=2, seed=n)
    whole = causal.encode(x)
    ids, samples = pushed(causal, x, cuts)
    assert torch.equal(ids, whole.ids)
    torch.testing.assert_close(samples[..., :n], causal.decode(whole), atol=1e-5, rtol=0)


@pytest.mark.parametrize("n", [1, 6, 7, 320, 360, 361, 2239, 2240, 2241, 9001])
def test_the_published_model_streams(published, n: int) -> None:
    codec = published["24"].with_bitrate(6.0)
    x = noise(n)
    whole = codec.encode(x)
    ids, samples = pushed(codec, x, [100] * 20)
    assert torch.equal(ids, whole.ids)
    torch.testing.assert_close(samples[..., :n], codec.decode(whole), atol=1e-5, rtol=0)


def test_latency_is_when_the_first_token_and_sample_come(published) -> None:
    codec = published["24"].with_bitrate(1.5)
    encoder, decoder = codec.stream(), codec.stream(decode=True)
    assert encoder.latency_seconds == pytest.approx(7 * 320 / 24000)
    assert decoder.latency_seconds == pytest.approx(6 * 320 / 24000)
    x = noise(4 * 2240)
    assert encoder.push(x[..., :2239]).ids.shape[1] == 0
    first = encoder.push(x[..., 2239:2240])
    assert first.ids.shape[1] == 7
    assert decoder.push(Tokens(first.ids[:, :6], codec.spec)).shape[-1] == 0
    assert decoder.push(Tokens(first.ids[:, 6:], codec.spec)).shape[-1] == 2240
    after = encoder.push(x[..., 2240:2560])
    assert after.ids.shape[1] == 1
    assert decoder.push(after).shape[-1] == 320


def test_sessions_do_not_touch_each_other_and_start_anew(causal) -> None:
    a, b = noise(5000, seed=1), noise(5000, seed=2)
    first, second = causal.stream(), causal.stream()
    parts: list[list[Tensor]] = [[], []]
    for x, y in zip(a.split(700, -1), b.split(700, -1), strict=True):
        parts[0].append(first.push(x).ids)
        parts[1].append(second.push(y).ids)
    for session, ids, x in ((first, parts[0], a), (second, parts[1], b)):
        ids.append(session.flush().ids)
        assert torch.equal(torch.cat(ids, dim=1), causal.encode(x).ids)
    again = torch.cat([first.push(b).ids, first.flush().ids], dim=1)
    assert torch.equal(again, causal.encode(b).ids)


def test_misused_streams_say_so(causal, windowed) -> None:
    encoder, decoder = causal.stream(), causal.stream(decode=True)
    assert encoder.push(noise(100)[..., :0]).ids.shape == (1, 0, 4)
    tokens = causal.encode(noise(3000, batch=2))
    for session in (encoder, decoder):
        with pytest.raises(ValueError, match="flush needs"):
            session.flush()
    with pytest.raises(TypeError, match="must be a tensor"):
        encoder.push(tokens)
    with pytest.raises(TypeError, match="takes no signals"):
        decoder.push(noise(640))
    encoder.push(noise(640))
    with pytest.raises(ValueError, match="batch of 1, got 2"):
        encoder.push(noise(640, batch=2))
    with pytest.raises(ValueError, match="batch of 1, got 2"):
        encoder.push(noise(640, batch=2)[..., :0])
    encoder.flush()
    with pytest.raises(ValueError, match="flush needs"):
        encoder.flush()
    decoder.push(tokens)
    with pytest.raises(ValueError, match="batch of 2, got 1"):
        decoder.push(tokens[0])
    with pytest.raises(ValueError, match="another codec"):
        decoder.push(windowed.encode(noise(600, batch=2, channels=2)))
    with pytest.raises(ValueError, match="advance together"):
        decoder.push(causal.encode(noise(3000, batch=2), torch.tensor([3000, 100])))
    with pytest.raises(ValueError, match="not causal"):
        windowed.stream()


# --- construction and weights


@pytest.mark.parametrize(
    "arguments", [{"channels": 3}, {"num_codebooks": 0}, {"strides": []}, {"codebook_size": 1000}, {"norm": "batch"}]
)
def test_impossible_arguments_are_refused(arguments: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(arguments))):
        Encodec(**{**SMALL, **arguments})


def test_any_number_of_codebooks_builds() -> None:
    for n in (1, 3, 7, 11):
        assert len(Encodec(**{**SMALL, "num_codebooks": n}).model.quantizer.layers) == n


def test_hub_files_of_the_older_layout_load(causal, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    hub = {
        key.replace("parametrizations.weight.original0", "weight_g").replace(
            "parametrizations.weight.original1", "weight_v"
        ): t
        for key, t in causal.model.state_dict().items()
    }
    save_file(hub, tmp_path / "model.safetensors")
    other = Encodec(**SMALL).eval()
    other.load_weights(tmp_path / "model.safetensors")
    x = noise(3000)
    assert other.encode(x) == causal.encode(x)
    hub.pop(next(iter(hub)))
    save_file(hub, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="1 missing keys"):
        other.load_weights(tmp_path / "model.safetensors")


def original(codec: Encodec) -> dict[str, Tensor]:
    """A codec's weights in the original program's layout."""
    state = {}
    for key, tensor in codec.model.state_dict().items():
        part, _, rest = key.partition(".layers.")
        if part == "quantizer":
            state[f"quantizer.vq.layers.{rest.replace('.codebook.', '._codebook.')}"] = tensor
            continue
        index = int(rest.split(".")[0])
        layer = codec.model.get_submodule(f"{part}.layers.{index}")
        inner = "convtr" if type(layer).__name__ == "EncodecConvTranspose1d" else "conv"
        rest = rest.replace(".conv.", f".{inner}.{inner}.").replace(".norm.", f".{inner}.norm.")
        rest = rest.replace("parametrizations.weight.original0", "weight_g")
        state[f"{part}.model.{rest.replace('parametrizations.weight.original1', 'weight_v')}"] = tensor
    return state


MODELS: dict[str, dict[str, Any]] = {
    "24 kHz": {**SMALL, "strides": [2, 4, 5, 8]},
    "48 kHz": {**SCALED, "sample_rate": 48000, "overlap": 0.01},
    "32 kHz": {**SMALL, "sample_rate": 32000, "strides": [4, 4], "causal": False, "conv_shortcut": False},
}


@pytest.mark.parametrize("model", MODELS)
def test_converted_weights_make_the_same_codes_and_signals(model: str, tmp_path: Path) -> None:
    codec = Encodec(**MODELS[model]).eval()
    state = original(codec)
    torch.save(
        {"best_state": state, "xp.cfg": "sample_rate: 32000"} if model == "32 kHz" else state, tmp_path / "weights.th"
    )
    loaded = tm.load(convert_encodec(tmp_path / "weights.th", tmp_path / "out"))
    assert {**loaded.config, "strides": list(loaded.config["strides"])} == {**codec.config}
    x = noise(2500, channels=codec.spec.channels)
    tokens = codec.encode(x)
    assert loaded.encode(x) == tokens
    assert torch.equal(loaded.decode(tokens), codec.decode(tokens))


def test_converter_refuses_what_does_not_fit(causal, tmp_path: Path) -> None:
    state = original(causal)
    for change, words in (
        (lambda s: s.pop("decoder.model.0.conv.conv.bias"), "1 missing keys"),
        (lambda s: s.update(extra=torch.zeros(1)), "1 unknown keys: extra"),
        (lambda s: s.update({"decoder.model.0.conv.conv.bias": torch.zeros(3)}), "1 wrong shapes"),
        (lambda s: s.clear(), "missing key encoder.model.0.conv"),
    ):
        wrong = dict(state)
        change(wrong)
        torch.save(wrong, tmp_path / "wrong.th")
        with pytest.raises(ValueError, match=words):
            convert_encodec(tmp_path / "wrong.th", tmp_path / "out")
    torch.save(state, tmp_path / "weights.th")
    (tmp_path / "more.json").write_text('{"sample_rate": 16000}')
    assert (
        tm.load(
            convert_encodec(tmp_path / "weights.th", tmp_path / "out", config=tmp_path / "more.json")
        ).spec.sample_rate
        == 16000
    )
    (tmp_path / "more.json").write_text('{"colour": 1}')
    with pytest.raises(ValueError, match="colour"):
        convert_encodec(tmp_path / "weights.th", tmp_path / "out", config=tmp_path / "more.json")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("rate", "n", "kbps"), [("24", 24001, 6.0), ("24", 5, 1.5), ("48", 50000, 6.0), ("48", 95100, 3.0)]
)
def test_converted_weights_equal_the_original_program(rate: str, n: int, kbps: float, tmp_path: Path) -> None:
    encodec = pytest.importorskip("encodec")
    torch.manual_seed(1)
    theirs = getattr(encodec.EncodecModel, f"encodec_model_{rate}khz")(pretrained=False).eval()
    for layer in theirs.quantizer.vq.layers:
        layer._codebook.embed.normal_()
    torch.save(theirs.state_dict(), tmp_path / "weights.th")
    codec = tm.load(convert_encodec(tmp_path / "weights.th", tmp_path / "out"))
    assert codec.spec == get_card(f"encodec-{rate}khz").spec
    codec = codec.with_bitrate(kbps)
    theirs.set_target_bandwidth(kbps)
    x = noise(n, channels=codec.spec.channels)
    with torch.no_grad():
        frames = theirs.encode(x)
        signal = theirs.decode(frames)[..., :n]
    tokens = codec.encode(x)
    assert torch.equal(tokens.codes, torch.cat([codes for codes, _ in frames], dim=-1))
    if rate == "48":
        torch.testing.assert_close(tokens.side["scale"], torch.cat([scale for _, scale in frames], dim=1))
    torch.testing.assert_close(codec.decode(tokens), signal, atol=1e-5, rtol=0)
