"""SNAC: the published counts, the package as an oracle, and the orders of its multi-scale ids."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import tokenizers_mm as tm
from tokenizers_mm.audio import SNAC
from tokenizers_mm.audio.convert.snac import convert_snac
from tokenizers_mm.nn.local_attention import LocalAttention
from tokenizers_mm.nn.snake import Snake
from tokenizers_mm.nn.strided_rvq import deinterleave, interleave, time_order

TINY: dict[str, Any] = {"encoder_dim": 8, "decoder_dim": 64, "codebook_size": 64}
WINDOWED: dict[str, Any] = {
    "sample_rate": 32000,
    "encoder_dim": 8,
    "strides": [2, 3, 8, 8],
    "decoder_dim": 64,
    "attention_window": 32,
    "codebook_size": 64,
    "vq_strides": [8, 4, 2, 1],
}


def tiny(config: dict[str, Any] = TINY, **changes: Any) -> SNAC:
    torch.manual_seed(0)
    return SNAC(**{**config, **changes}).eval()


def noise(*shape: int) -> Tensor:
    return 0.3 * torch.randn(*shape, generator=torch.Generator().manual_seed(1))


# -- the published numbers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "parameters", "kbps"),
    [("snac-24khz", 19_842_914, 0.984), ("snac-32khz", 54_546_338, 1.875), ("snac-44khz", 54_546_338, 2.584)],
)
def test_published_sizes(name: str, parameters: int, kbps: float) -> None:
    card = next(card for card in tm.list_codecs() if card.name == name)
    with torch.device("meta"):
        codec = SNAC(**card.config)
    assert sum(p.numel() for p in codec.parameters()) == parameters
    assert codec.spec == card.spec
    assert codec.spec.bitrate == pytest.approx(1000 * kbps, rel=1e-3)
    if name == "snac-24khz":
        assert codec.config == SNAC(**TINY).config | {key: codec.config[key] for key in TINY}, (
            "the default is published"
        )


@pytest.mark.parametrize(("config", "n", "counts"), [(TINY, 24000, (12, 24, 48)), (WINDOWED, 32000, (12, 24, 48, 96))])
def test_published_code_counts(config: dict[str, Any], n: int, counts: tuple[int, ...]) -> None:
    codec = tiny(config)
    tokens = codec.encode(noise(1, 1, n))
    assert tuple(ids.shape[1] for ids in codec.to_codes(tokens)) == counts
    assert tokens.ids.shape == (1, counts[0], sum(counts) // counts[0])
    assert int(tokens.lengths[0]) == codec.spec.steps(n) == counts[0]
    assert codec.decode(tokens).shape == (1, 1, n)


def test_one_coarse_frame_is_one_step() -> None:
    assert tiny().spec.levels == (0, 1, 1, 2, 2, 2, 2)
    assert tiny(WINDOWED).spec.levels == (0, 1, 1, 2, 2, 2, 2, *[3] * 8)
    assert tiny().time_order == (0, 1, 3, 4, 2, 5, 6)


# -- the package as an oracle ------------------------------------------------------------------------------------------


def published(config: dict[str, Any], folder: Path) -> Any:
    """A network of the package with random weights, and its files."""
    package = pytest.importorskip("snac")
    arguments = {
        "sampling_rate": config.get("sample_rate", 24000),
        "encoder_dim": config["encoder_dim"],
        "encoder_rates": config.get("strides", [2, 4, 8, 8]),
        "latent_dim": None,
        "decoder_dim": config["decoder_dim"],
        "decoder_rates": config.get("strides", [2, 4, 8, 8])[::-1],
        "attn_window_size": config.get("attention_window"),
        "codebook_size": config["codebook_size"],
        "codebook_dim": 8,
        "vq_strides": config.get("vq_strides", [4, 2, 1]),
        "noise": config.get("noise", True),
        "depthwise": True,
    }
    torch.manual_seed(0)
    model = package.SNAC(**arguments).eval()
    with torch.no_grad():
        for name, tensor in model.named_parameters():  # away from the start, where all alphas are 1
            if name.endswith("alpha"):
                tensor.uniform_(0.3, 3.0)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    (folder / "config.json").write_text(json.dumps(arguments))
    return model


ODD: dict[str, Any] = {**WINDOWED, "encoder_dim": 16, "strides": [3, 7], "vq_strides": [4, 1], "attention_window": 6}


@pytest.mark.parametrize("config", [TINY, WINDOWED, ODD, {**TINY, "noise": False}])
@torch.no_grad()
def test_equals_the_published_package(config: dict[str, Any], tmp_path: Path) -> None:
    model = published(config, tmp_path)
    codec = tm.load(convert_snac(tmp_path, tmp_path / "ours"))
    assert isinstance(codec, SNAC)
    x = noise(2, 1, 9000)
    codes, tokens = model.encode(x), codec.encode(x)
    for theirs, ours in zip(codes, codec.to_codes(tokens), strict=True):
        assert torch.equal(ours, theirs)
    assert codec.from_codes(codes, size=9000) == tokens
    torch.manual_seed(5)
    wave = model.decode(codes)
    torch.manual_seed(5)
    ours = codec.decode(tokens, noise=True) if config.get("noise", True) else codec.decode(tokens)
    torch.testing.assert_close(ours, wave[..., :9000], atol=2e-5, rtol=1e-4)
    for module in model.modules():
        if type(module).__name__ == "NoiseBlock":
            module.forward = lambda h: h
    torch.testing.assert_close(codec.decode(tokens), model.decode(codes)[..., :9000], atol=2e-5, rtol=1e-4)
    with torch.enable_grad():  # the training path, in evaluation, computes the same
        torch.testing.assert_close(codec(x).reconstruction, codec.decode(tokens), atol=2e-5, rtol=1e-4)


def test_converter_refuses_what_does_not_fit(tmp_path: Path) -> None:
    published(TINY, tmp_path)
    weights, config = tmp_path / "pytorch_model.bin", tmp_path / "config.json"
    right, state = json.loads(config.read_text()), torch.load(weights, weights_only=True)
    for change, words in (
        ({"depthwise": False}, "depthwise must be True"),
        ({"decoder_rates": [2, 4, 8, 8]}, "decoder_rates must be"),
        ({"colour": 1}, r"unknown \['colour'\]"),
        ({"decoder_dim": 32}, "wrong shapes"),
        ({"attn_window_size": 4, "encoder_dim": 16}, "missing keys"),
    ):
        config.write_text(json.dumps(right | change))
        with pytest.raises(ValueError, match=words):
            convert_snac(tmp_path, tmp_path / "ours")
    config.write_text(json.dumps(right))
    torch.save(state | {"decoder.extra": torch.zeros(1)}, weights)
    with pytest.raises(ValueError, match=r"1 unknown keys: decoder\.extra"):
        convert_snac(weights, tmp_path / "ours")
    weights.unlink()
    with pytest.raises(FileNotFoundError, match="checkpoint file"):
        convert_snac(tmp_path, tmp_path / "ours")


# -- noise -------------------------------------------------------------------------------------------------------------


def test_noise_only_on_demand_and_reproducible_with_a_generator() -> None:
    codec = tiny()
    tokens = codec.encode(noise(1, 1, 5000))
    quiet = codec.decode(tokens)
    assert torch.equal(codec.decode(tokens), quiet)
    first, again = (codec.decode(tokens, noise=torch.Generator().manual_seed(7)) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.allclose(first, quiet)
    assert not torch.equal(codec.decode(tokens, noise=True), codec.decode(tokens, noise=True))
    assert torch.equal(codec.decode(tokens), quiet), "noise does not outlast the call that asked for it"
    with pytest.raises(ValueError, match="no noise blocks"):
        tiny(noise=False).decode(tokens, noise=True)


# -- orders of ids -----------------------------------------------------------------------------------------------------

STRIDES = st.sampled_from([(4, 2, 1), (8, 4, 2, 1), (1,), (2, 2, 1), (6, 3), (1, 1)])


@settings(max_examples=60, deadline=None)
@given(strides=STRIDES, frames=st.integers(0, 40), batch=st.integers(1, 3))
def test_interleaving_is_a_bijection_for_every_length(strides: tuple[int, ...], frames: int, batch: int) -> None:
    generator = torch.Generator().manual_seed(frames)
    levels = [torch.randint(1, 50, (batch, -(-frames // r)), generator=generator) for r in strides]
    ids = interleave(levels, strides)
    assert ids.shape == (batch, -(-frames // strides[0]), sum(strides[0] // r for r in strides))
    for level, back in zip(levels, deinterleave(ids, strides, frames), strict=True):
        assert torch.equal(level, back)
    assert torch.equal(interleave(deinterleave(ids, strides), strides), ids)
    order = list(time_order(strides))
    assert torch.equal(ids[..., order][..., torch.tensor(order).argsort()], ids)


@settings(max_examples=20, deadline=None)
@given(frames=st.integers(1, 21))
def test_codes_that_end_within_a_step_decode_to_their_own_length(frames: int) -> None:
    codec = tiny()
    codes = [torch.randint(64, (1, -(-frames // r))) for r in (4, 2, 1)]
    tokens = codec.from_codes(codes)
    for level, back in zip(codes, deinterleave(tokens.ids, (4, 2, 1), frames), strict=True):
        assert torch.equal(level, back)
    assert codec.decode(tokens).shape[-1] == frames * 512


def test_tokens_of_a_language_model_need_not_fill_attention_windows() -> None:
    codec = tiny(WINDOWED)
    ids = torch.randint(64, (1, 5, 15))
    assert codec.decode(tm.Tokens(ids, codec.spec)).shape == (1, 1, 5 * 3072)


def test_each_id_covers_the_frames_of_its_level() -> None:
    """Changing one id changes the features of the frames that it stands for, and no others."""
    codec = tiny()
    ids = torch.randint(64, (1, 3, 7))
    before = codec.quantizer.decode(ids)
    for column, (first, last) in enumerate([(0, 4), (0, 2), (2, 4), (0, 1), (1, 2), (2, 3), (3, 4)]):
        other = ids.clone()
        other[0, 1, column] = (other[0, 1, column] + 1) % 64
        changed = (codec.quantizer.decode(other) - before).abs().sum(dim=-1)[0] > 0
        assert changed.nonzero()[:, 0].tolist() == list(range(4 + first, 4 + last))


@pytest.mark.parametrize("strides", [(), (4, 3, 1), (1, 2), (0,)])
def test_strides_that_do_not_nest_are_refused(strides: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="each dividing the one before"):
        SNAC(**{**TINY, "vq_strides": strides})


def test_wrong_codes_are_refused() -> None:
    codec = tiny()
    with pytest.raises(ValueError, match="3 tensors"):
        codec.from_codes([torch.zeros(1, 4, dtype=torch.long)])
    with pytest.raises(ValueError, match=r"\[0, 64\)"):
        codec.from_codes([torch.full((1, n), 64) for n in (1, 2, 4)])
    with pytest.raises(ValueError, match=r"ids must be \[B, T, 7\]"):
        deinterleave(torch.zeros(1, 2, 15), (4, 2, 1))
    with pytest.raises(ValueError, match="frames must be 0 to 8"):
        deinterleave(torch.zeros(1, 2, 7), (4, 2, 1), frames=9)
    with pytest.raises(ValueError, match="another codec"):
        codec.to_codes(tiny(WINDOWED).encode(noise(1, 1, 100)))


# -- layers ------------------------------------------------------------------------------------------------------------


def test_attention_stays_inside_its_window() -> None:
    torch.manual_seed(0)
    layer = LocalAttention(64, window=4).double()
    x = torch.randn(1, 64, 12).double()
    y = x.clone()
    y[..., 5] += 1
    changed = (layer(x) - layer(y)).abs().amax(dim=(0, 1)) > 0
    assert changed.nonzero()[:, 0].tolist() == [4, 5, 6, 7]
    shifted = layer(x.roll(4, dims=-1))
    torch.testing.assert_close(shifted, layer(x).roll(4, dims=-1))
    with pytest.raises(ValueError, match="multiple of 4"):
        layer(x[..., :10])
    with pytest.raises(ValueError, match="multiple of an even head_dim"):
        LocalAttention(100, window=4)


def test_snake_without_gradients_is_the_same_function() -> None:
    snake, x = Snake(3), torch.randn(2, 3, 50)
    with torch.no_grad():
        snake.alpha.copy_(torch.tensor([0.5, 1.0, 0.0]).reshape(1, 3, 1))
        fast = snake(x)
    torch.testing.assert_close(fast, snake(x))
    assert torch.equal(fast[:, 2], x[:, 2]), "an alpha of 0 is the identity"


# -- training ----------------------------------------------------------------------------------------------------------


def test_training_lowers_the_loss() -> None:
    codec = tiny(sample_rate=16000, strides=[2, 4, 4]).train()
    optimizer = torch.optim.Adam(codec.parameters(), 1e-3)
    t = torch.arange(2048) / 16000
    x = 0.3 * torch.sin(2 * torch.pi * torch.tensor([220.0, 330.0, 440.0, 550.0])[:, None, None] * t)
    window = torch.hann_window(256)
    history = []
    for _ in range(25):
        output = codec(x)
        a, b = (torch.stft(y[:, 0], 256, window=window, return_complex=True).abs() for y in (output.reconstruction, x))
        spectral = (a - b).abs().mean()
        optimizer.zero_grad()
        (spectral + 0.02 * output.quantizer_loss).backward()
        optimizer.step()
        history.append(float(spectral.detach()))
    assert sum(history[-5:]) < 0.75 * sum(history[:5])
    assert output.ids.shape == (4, 2048 // 128, 7)


def test_dead_codes_return_to_where_the_features_are() -> None:
    codec = tiny(vq_strides=[1], codebook_size=16).train()
    level = codec.quantizer.quantizers[0]
    with torch.no_grad():
        level.codebook.weight[1:] = -level.codebook.weight[0]  # all but one direction far away
        z = level.codebook.weight[0] + 0.3 * torch.randn(400, 8)
        used = []
        for _ in range(400):
            ids = level.look_up(z)
            used.append(len(ids.unique()))
            level.revive(z, ids, 0.1)
    assert used[0] <= 2
    assert used[-1] > 12
    assert torch.isfinite(level.codebook.weight).all()
    before = level.codebook.weight.clone()
    codec.eval()(noise(1, 1, 4096))
    assert torch.equal(level.codebook.weight, before), "evaluation never touches the codebook"
    assert not any("usage" in key for key in codec.state_dict())


def test_padding_of_shorter_items_does_not_train_the_codebooks() -> None:
    codec = tiny().train()
    x = noise(2, 1, 4096)
    losses = []
    for filler in (0.0, 0.9):
        padded = x.clone()
        padded[1, :, :] = filler
        features = codec._features(padded)
        mask = torch.tensor([[True] * 8, [False] * 8])
        losses.append(codec.quantizer(features, mask).loss)
    torch.testing.assert_close(*losses)


def test_long_signals_are_cut_at_whole_attention_windows() -> None:
    codec = tiny(WINDOWED)
    x = noise(1, 1, 60_000)
    seconds = 3072 / 32000
    for window in (5, 9):
        tokens = codec.encode_long(
            iter(x.split(7000, dim=-1)), window_seconds=window * seconds, context_seconds=4 * seconds
        )
        assert torch.equal(tokens.shapes, codec.encode(x).shapes)
        assert torch.cat(list(codec.decode_long(tokens, window_seconds=window * seconds)), dim=-1).shape == x.shape
