"""Conversion of WavTokenizer's published checkpoints, against a plain forward pass over the published layout."""

from __future__ import annotations

import datetime
import json
import math
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from tokenizers_mm.audio import WavTokenizer
from tokenizers_mm.audio.convert.wavtokenizer import convert_wavtokenizer, infer_arguments, rename

State = dict[str, Tensor]
ENCODEC = "feature_extractor.encodec"
SMALL = {"filters": 4, "width": 64, "entries": 32, "dim": 64, "intermediate": 48, "layers": 2}
PUBLISHED = {"filters": 32, "width": 512, "entries": 4096, "dim": 768, "intermediate": 2304, "layers": 12}


def published(strides: tuple[int, ...], *, device: str = "cpu", seed: int = 0, **sizes: int) -> State:
    """Random weights in the published layout, with everything that a checkpoint carries besides the codec."""
    filters, width, entries = sizes["filters"], sizes["width"], sizes["entries"]
    dim, intermediate = sizes["dim"], sizes["intermediate"]
    generator = None if device == "meta" else torch.Generator().manual_seed(seed)
    state: State = {}

    def put(key: str, *shape: int, scale: float = 1.0, mean: float = 0.0) -> None:
        state[key] = torch.randn(*shape, device=device, generator=generator) * scale + mean

    def plain(key: str, *shape: int) -> None:
        put(f"{key}.weight", *shape, scale=math.prod(shape[1:]) ** -0.5)
        put(f"{key}.bias", shape[0], scale=0.1)

    def norm(key: str) -> None:
        put(f"{key}.weight", dim, scale=0.2, mean=1.0)
        put(f"{key}.bias", dim, scale=0.2)

    def ada_norm(key: str) -> None:
        put(f"{key}.scale.weight", 4, dim, scale=0.2, mean=1.0)
        put(f"{key}.shift.weight", 4, dim, scale=0.2)

    def weight_normed(key: str, n_out: int, n_in: int, kernel: int) -> None:
        put(f"{key}.conv.conv.weight_g", n_out, 1, 1, scale=0.1, mean=1.2)
        put(f"{key}.conv.conv.weight_v", n_out, n_in, kernel)
        put(f"{key}.conv.conv.bias", n_out, scale=0.1)

    def seanet(key: str, factors: tuple[int, ...]) -> None:
        weight_normed(f"{key}.0", filters, 1, 7)
        channels = filters
        for stage, stride in enumerate(factors):
            weight_normed(f"{key}.{3 * stage + 1}.block.1", channels // 2, channels, 3)
            weight_normed(f"{key}.{3 * stage + 1}.block.3", channels, channels // 2, 1)
            weight_normed(f"{key}.{3 * stage + 1}.shortcut", channels, channels, 1)
            weight_normed(f"{key}.{3 * stage + 3}", 2 * channels, channels, 2 * stride)
            channels *= 2
        at = 3 * len(factors) + 1
        for layer in range(2):
            for part in ("ih", "hh"):
                put(f"{key}.{at}.lstm.weight_{part}_l{layer}", 4 * channels, channels, scale=channels**-0.5)
                put(f"{key}.{at}.lstm.bias_{part}_l{layer}", 4 * channels, scale=0.1)
        weight_normed(f"{key}.{at + 2}", width, channels, 7)

    seanet(f"{ENCODEC}.encoder.model", strides)
    seanet(f"{ENCODEC}.decoder.model", (2, 4, 5, 8))  # dead upstream; its exact shapes do not matter
    codebook = f"{ENCODEC}.quantizer.vq.layers.0._codebook"
    state[f"{codebook}.inited"] = torch.ones(1, device=device)
    put(f"{codebook}.cluster_size", entries, mean=10.0)
    put(f"{codebook}.embed", entries, width, scale=0.5)
    put(f"{codebook}.embed_avg", entries, width)
    plain("backbone.embed", dim, width, 7)
    ada_norm("backbone.norm")
    for i in range(sizes["layers"]):
        put(f"backbone.convnext.{i}.gamma", dim, scale=0.1, mean=0.5)
        plain(f"backbone.convnext.{i}.dwconv", dim, 1, 7)
        ada_norm(f"backbone.convnext.{i}.norm")
        plain(f"backbone.convnext.{i}.pwconv1", intermediate, dim)
        plain(f"backbone.convnext.{i}.pwconv2", dim, intermediate)
    norm("backbone.final_layer_norm")
    for i in (0, 1, 3, 4):
        for part in ("1", "2"):
            norm(f"backbone.pos_net.{i}.norm{part}")
            plain(f"backbone.pos_net.{i}.conv{part}", dim, dim, 3)
    norm("backbone.pos_net.2.norm")
    for part in ("q", "k", "v", "proj_out"):
        plain(f"backbone.pos_net.2.{part}", dim, dim, 1)
    norm("backbone.pos_net.5")
    n_fft = 4 * math.prod(strides)
    put("head.out.weight", n_fft + 2, dim, scale=dim**-0.5)
    put("head.out.bias", n_fft + 2, scale=0.1)
    state["head.istft.window"] = torch.hann_window(n_fft, device=device)
    for other in (
        "multiperioddisc.a",
        "multiresddisc.b",
        "dac.c",
        "dacdiscriminator.discriminator.d",
        "melspec_loss.e",
    ):
        put(other, 3)
    return state


# -- the independent forward pass --------------------------------------------------------------------------------------


def padded_conv(state: State, key: str, x: Tensor, stride: int = 1) -> Tensor:
    """A weight-normed convolution, the input extended by reflection so that the last window is full."""
    v, g = state[f"{key}.conv.conv.weight_v"], state[f"{key}.conv.conv.weight_g"]
    weight = g * v / v.flatten(1).norm(dim=1)[:, None, None]
    n, kernel = x.shape[-1], v.shape[-1]
    total = kernel - stride
    right = total // 2
    left = total - right
    right += (math.ceil((n - kernel + total) / stride + 1) - 1) * stride + (kernel - total) - n
    zeros = max(max(left, right) - n + 1, 0)
    x = F.pad(F.pad(x, (0, zeros)), (left, right), mode="reflect")
    return F.conv1d(x[..., : x.shape[-1] - zeros], weight, state[f"{key}.conv.conv.bias"], stride)


def lstm(state: State, key: str, x: Tensor) -> Tensor:
    """Two LSTM layers, step by step, with a skip around both: ``[B, D, L]``."""
    steps = list(x.unbind(-1))
    for layer in range(2):
        w_ih, w_hh, b_ih, b_hh = (
            state[f"{key}.lstm.{kind}_l{layer}"] for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )
        h = c = torch.zeros_like(steps[0])
        outputs = []
        for step in steps:
            i, f, g, o = (step @ w_ih.T + b_ih + h @ w_hh.T + b_hh).chunk(4, dim=-1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
            outputs.append(h)
        steps = outputs
    return torch.stack(steps, dim=-1) + x


def reference_codes(state: State, x: Tensor, strides: tuple[int, ...]) -> Tensor:
    """Codes ``[B, L]`` of a signal ``[B, 1, N]``."""
    key = f"{ENCODEC}.encoder.model"
    x = padded_conv(state, f"{key}.0", x)
    for stage, stride in enumerate(strides):
        unit = f"{key}.{3 * stage + 1}"
        inner = padded_conv(state, f"{unit}.block.1", F.elu(x))
        x = padded_conv(state, f"{unit}.shortcut", x) + padded_conv(state, f"{unit}.block.3", F.elu(inner))
        x = padded_conv(state, f"{key}.{3 * stage + 3}", F.elu(x), stride)
    at = 3 * len(strides) + 1
    x = padded_conv(state, f"{key}.{at + 2}", F.elu(lstm(state, f"{key}.{at}", x)))
    embed = state[f"{ENCODEC}.quantizer.vq.layers.0._codebook.embed"]
    return (x.mT[:, :, None] - embed).square().sum(-1).argmin(-1)


def reference_wave(state: State, codes: Tensor, embedding: int) -> Tensor:
    """Waveform ``[B, L * hop]`` of codes ``[B, L]``."""

    def conv(key: str, x: Tensor, padding: int, groups: int = 1) -> Tensor:
        return F.conv1d(x, state[f"{key}.weight"], state[f"{key}.bias"], padding=padding, groups=groups)

    def group_norm(key: str, x: Tensor) -> Tensor:
        groups = min(32, x.shape[1] // 8)  # 32 of the published 768 channels
        return F.group_norm(x, groups, state[f"{key}.weight"], state[f"{key}.bias"], eps=1e-6)

    def ada_norm(key: str, x: Tensor) -> Tensor:
        x = F.layer_norm(x, x.shape[-1:], eps=1e-6)
        return x * state[f"{key}.scale.weight"][embedding] + state[f"{key}.shift.weight"][embedding]

    x = state[f"{ENCODEC}.quantizer.vq.layers.0._codebook.embed"][codes].mT
    x = conv("backbone.embed", x, 3)
    for i in range(5):
        key = f"backbone.pos_net.{i}"
        if i == 2:
            y = group_norm(f"{key}.norm", x)
            q, k, v = (conv(f"{key}.{part}", y, 0) for part in "qkv")
            weights = torch.softmax(q.mT @ k * x.shape[1] ** -0.5, dim=-1)
            y = conv(f"{key}.proj_out", v @ weights.mT, 0)
        else:
            y = conv(f"{key}.conv1", F.silu(group_norm(f"{key}.norm1", x)), 1)
            y = conv(f"{key}.conv2", F.silu(group_norm(f"{key}.norm2", y)), 1)
        x = x + y
    x = ada_norm("backbone.norm", group_norm("backbone.pos_net.5", x).mT).mT
    for i in range(sum(key.endswith("gamma") for key in state)):
        key = f"backbone.convnext.{i}"
        y = ada_norm(f"{key}.norm", conv(f"{key}.dwconv", x, 3, groups=x.shape[1]).mT)
        y = F.gelu(y @ state[f"{key}.pwconv1.weight"].T + state[f"{key}.pwconv1.bias"])
        y = y @ state[f"{key}.pwconv2.weight"].T + state[f"{key}.pwconv2.bias"]
        x = x + (y * state[f"{key}.gamma"]).mT
    final = "backbone.final_layer_norm"
    x = F.layer_norm(x.mT, (x.shape[1],), state[f"{final}.weight"], state[f"{final}.bias"], eps=1e-6)
    return inverse_stft(x @ state["head.out.weight"].T + state["head.out.bias"])


def inverse_stft(rows: Tensor) -> Tensor:
    """Overlap-add of ``[B, L, n_fft + 2]``, frame by frame."""
    n_fft = rows.shape[-1] - 2
    hop = n_fft // 4
    magnitude, phase = rows.chunk(2, dim=-1)
    frames = torch.fft.irfft(torch.polar(magnitude.exp().clip(max=100.0), phase), n_fft)
    window = torch.hann_window(n_fft)
    total = torch.zeros(len(rows), (rows.shape[1] + 3) * hop)
    envelope = torch.zeros(total.shape[1])
    for i in range(rows.shape[1]):
        total[:, i * hop : i * hop + n_fft] += frames[:, i] * window
        envelope[i * hop : i * hop + n_fft] += window**2
    cut = slice((n_fft - hop) // 2, total.shape[1] - (n_fft - hop) // 2)
    return total[:, cut] / envelope[cut]


# -- what must hold ----------------------------------------------------------------------------------------------------


def write(state: State, folder: Path, **extra: object) -> Path:
    torch.save(
        {"epoch": 3, "state_dict": state, "hyper_parameters": {"sample_rate": 24000}, **extra}, folder / "w.ckpt"
    )
    return folder / "w.ckpt"


@pytest.mark.parametrize("strides", [(4, 5, 5, 6), (2, 4, 5, 8), (2, 3)])
@pytest.mark.parametrize("n", [9600, 1801, 5])
def test_converted_codec_equals_a_plain_forward(tmp_path, strides, n):
    state = published(strides, seed=n, **SMALL)
    codec = WavTokenizer.from_pretrained(convert_wavtokenizer(write(state, tmp_path), tmp_path / "out"))
    x = torch.randn(2, 1, n, generator=torch.Generator().manual_seed(1)) * 0.3
    with torch.no_grad():
        tokens = codec.encode(x)
        codes = reference_codes(state, x, strides)
        assert torch.equal(tokens.ids[..., 0], codes)
        assert codes.shape == (2, math.ceil(n / math.prod(strides)))
        assert n < 9600 or len(codes.unique()) > 4
        features = codec.quantizer.decode(tokens.ids)
        waves = [codec._synthesise(features, torch.full((2,), i)) for i in range(4)]
        for i, wave in enumerate(waves):
            torch.testing.assert_close(wave[:, 0], reference_wave(state, codes, i), rtol=1e-4, atol=1e-4)
        assert all((waves[0] - wave).abs().max() > 1e-3 for wave in waves[1:])
        torch.testing.assert_close(codec.decode(tokens), waves[0][..., :n])


def test_safetensors_and_checkpoint_give_the_same_codec(tmp_path):
    state = published((2, 3), **SMALL)
    save_file(state, tmp_path / "w.safetensors")
    one = convert_wavtokenizer(tmp_path / "w.safetensors", tmp_path / "one")
    other = convert_wavtokenizer(write(state, tmp_path), tmp_path / "other")
    for name in ("config.json", "model.safetensors"):
        assert (one / name).read_bytes() == (other / name).read_bytes()
    assert json.loads((one / "config.json").read_text())["strides"] == [2, 3]


@pytest.mark.parametrize(
    ("strides", "in_use", "head"), [((4, 5, 5, 6), 72_111_714, 1_847_138), ((2, 4, 5, 8), 71_750_146, 985_858)]
)
def test_full_size_layout_is_accounted_for(strides, in_use, head):
    state = published(strides, device="meta", **PUBLISHED)
    assert sum(key.startswith(("feature_extractor.", "backbone.", "head.")) for key in state) == 289
    arguments = infer_arguments(state)
    with torch.device("meta"):
        codec, default = WavTokenizer(**arguments), WavTokenizer(strides=strides)
    assert codec.state_dict().keys() == default.state_dict().keys()
    assert {k: t.shape for k, t in rename(state, codec.state_dict()).items()} == {
        k: t.shape for k, t in default.state_dict().items()
    }
    assert sum(p.numel() for p in codec.parameters()) == in_use
    assert sum(p.numel() for p in codec.head.parameters()) == head
    assert sum(p.numel() for p in codec.backbone.parameters()) == 61_961_472
    assert sum(t.numel() for t in codec.quantizer.state_dict().values()) == 4_198_401
    assert not list(codec.quantizer.parameters())


@pytest.mark.parametrize(
    "key",
    [
        f"{ENCODEC}.encoder.model.1.block.3.conv.conv.weight_g",
        f"{ENCODEC}.encoder.model.3.conv.conv.weight_v",
        f"{ENCODEC}.quantizer.vq.layers.0._codebook.embed_avg",
        "backbone.convnext.1.gamma",
        "backbone.pos_net.2.k.bias",
        "head.out.weight",
    ],
)
def test_a_missing_key_is_named(tmp_path, key):
    state = published((2, 3), **SMALL)
    del state[key]
    with pytest.raises(ValueError, match=rf"missing key.*{key}"):
        convert_wavtokenizer(write(state, tmp_path), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_unknown_keys_and_wrong_shapes_are_all_named(tmp_path):
    state = published((2, 3), **SMALL)
    state["backbone.pos_net.6.weight"] = torch.zeros(64)
    state["backbone.pos_net.2.q.weight"] = torch.zeros(64, 64, 3)
    state[f"{ENCODEC}.quantizer.vq.layers.0._codebook.cluster_size"] = torch.zeros(31)
    with pytest.raises(ValueError) as caught:
        convert_wavtokenizer(write(state, tmp_path), tmp_path / "out")
    message = str(caught.value)
    assert "1 unknown keys: backbone.pos_net.6.weight" in message
    assert "2 wrong shapes" in message
    assert "backbone.pos_net.2.q.weight: expected [64, 64, 1], got [64, 64, 3]" in message
    assert "cluster_size: expected [32], got [31]" in message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {f"{ENCODEC}.encoder.model.3.conv.conv.weight_v": torch.zeros(8, 4, 5)},
            r"kernels of two strides, got \[5, 6\]",
        ),
        ({"head.out.weight": torch.zeros(30, 64)}, "26 rows for strides .*, got 30"),
        ({"head.out.weight": torch.zeros(26)}, r"head.out.weight must have 2 dimensions, got \[26\]"),
    ],
)
def test_weights_that_contradict_each_other_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        infer_arguments({**published((2, 3), **SMALL), **change})


def test_pickled_objects_need_consent(tmp_path):
    source = write(published((2, 3), **SMALL), tmp_path, callbacks={"timer": datetime.timedelta(1)})
    with pytest.raises(ValueError, match=r"datetime\.timedelta.*run any code.*allow_pickle=True"):
        convert_wavtokenizer(source, tmp_path / "out")
    assert (convert_wavtokenizer(source, tmp_path / "out", allow_pickle=True) / "model.safetensors").is_file()


def test_pickled_code_does_not_run_without_consent(tmp_path):
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    source = write(published((2, 3), **SMALL), tmp_path, callbacks=Evil())
    with pytest.raises(ValueError, match="run any code"):
        convert_wavtokenizer(source, tmp_path / "out")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
@pytest.mark.parametrize("consent", [False, True])
def test_damaged_files_are_refused(tmp_path, suffix, consent):
    whole = write({"x": torch.zeros(4)}, tmp_path).read_bytes()
    source = tmp_path / f"damaged{suffix}"
    for content in (b"", b"hello world", whole[: len(whole) // 2], b"\xff" * 100):
        source.write_bytes(content)
        with pytest.raises(ValueError, match="not a readable checkpoint"):
            convert_wavtokenizer(source, tmp_path / "out", allow_pickle=consent)


def test_files_of_something_else_are_refused(tmp_path):
    torch.save([1, 2], tmp_path / "list.ckpt")
    with pytest.raises(ValueError, match="must hold a mapping of tensors"):
        convert_wavtokenizer(tmp_path / "list.ckpt", tmp_path / "out")
    with pytest.raises(ValueError, match="not a WavTokenizer checkpoint"):
        convert_wavtokenizer(write({"x": torch.zeros(4)}, tmp_path), tmp_path / "out")
    for missing in (tmp_path, tmp_path / "absent.ckpt"):
        with pytest.raises(FileNotFoundError, match="checkpoint file"):
            convert_wavtokenizer(missing, tmp_path / "out")


def configuration(**changes: object) -> dict:
    """A YAML tree in the published layout for strides (2, 3); its class paths do not exist."""
    parts = {
        "feature_extractor": {"dowmsamples": [3, 2], "vq_bins": 32, "vq_kmeans": 200, "num_quantizers": 1},
        "backbone": {"input_channels": 64, "dim": 64, "intermediate_dim": 48, "num_layers": 2},
        "head": {"dim": 64, "n_fft": 24, "hop_length": 6, "padding": "same"},
    }
    for name, value in changes.items():
        part, _, key = name.partition("__")
        parts[part][key] = value
    return {"model": {"init_args": {k: {"class_path": f"not.a.{k}", "init_args": v} for k, v in parts.items()}}}


def test_yaml_is_checked_against_the_weights(tmp_path):
    source = write(published((2, 3), **SMALL), tmp_path)
    beside = source.with_suffix(".yaml")
    beside.write_text(yaml.safe_dump(configuration()))
    convert_wavtokenizer(source, tmp_path / "out")
    beside.write_text(yaml.safe_dump(configuration(feature_extractor__dowmsamples=[2, 3], head__hop_length=8)))
    with pytest.raises(
        ValueError, match=r"dowmsamples: expected \[3, 2\], got \[2, 3\]; head.hop_length: expected 6, got 8"
    ):
        convert_wavtokenizer(source, tmp_path / "out")
    other = tmp_path / "other.yaml"
    other.write_text(yaml.safe_dump(configuration(backbone__num_layers=12)))
    with pytest.raises(ValueError, match="num_layers: expected 2, got 12"):
        convert_wavtokenizer(source, tmp_path / "out", config=other)


@pytest.mark.parametrize("text", ["", "model: [", "model: {}", "!!python/object/apply:os.getcwd []", "- 1\n- 2"])
def test_a_wrong_yaml_is_named(tmp_path, text):
    source = write(published((2, 3), **SMALL), tmp_path)
    (tmp_path / "w.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"w\.yaml must hold model\.init_args"):
        convert_wavtokenizer(source, tmp_path / "out")
    with pytest.raises(FileNotFoundError, match="config must be a YAML file"):
        convert_wavtokenizer(source, tmp_path / "out", config=tmp_path / "absent.yaml")
