"""DAC: exact lengths, parity with the library and with the original program's layout, training."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("transformers")

from tokenizers_mm import registry
from tokenizers_mm.audio import DAC
from tokenizers_mm.audio.convert import CONVERTERS
from tokenizers_mm.audio.convert.dac import convert_dac
from tokenizers_mm.audio.losses import MultiScaleMelLoss

TINY = {"encoder_dim": 8, "latent_dim": 32, "decoder_dim": 32}
SPEECH = {**TINY, "sample_rate": 24000, "strides": [2, 4, 5, 8], "num_codebooks": 4}


def tiny(**arguments: object) -> DAC:
    torch.manual_seed(0)
    return DAC(**{**SPEECH, **arguments}).eval()


def noise(*shape: int) -> Tensor:
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("samples", [1, 311, 312, 319, 320, 321, 3192, 3193, 3200])
def test_lengths_are_exact_though_the_network_loses_eight_samples(samples: int) -> None:
    codec = tiny()
    tokens = codec.encode(noise(2, 1, samples))
    assert tokens.ids.shape == (2, math.ceil(samples / 320), 4)
    assert codec.model.decode(audio_codes=tokens.codes).audio_values.shape[-1] == 320 * tokens.ids.shape[1] - 8
    assert codec.decode(tokens).shape == (2, 1, samples)


@pytest.mark.parametrize("arguments", [{}, {"sample_rate": 44100, "strides": [2, 4, 8, 8], "num_codebooks": 9}])
def test_tokens_and_samples_are_the_librarys(arguments: dict) -> None:
    codec = tiny(**arguments)
    x = noise(2, 1, 10 * codec.hop_length)
    tokens = codec.encode(x)
    codes = codec.model.encode(x).audio_codes
    assert torch.equal(tokens.codes, codes)
    theirs = codec.model.decode(audio_codes=codes).audio_values
    ours = codec.decode(tokens)[:, 0]
    assert torch.equal(ours[:, : theirs.shape[1]], theirs)
    assert not ours[:, theirs.shape[1] :].any()


def test_fewer_codebooks_are_the_librarys_too() -> None:
    codec = tiny()
    x = noise(1, 1, 3200)
    half = codec.with_bitrate(codec.spec.bitrate / 2000)
    assert half.spec.num_codebooks == 2
    codes = codec.model.encode(x, n_quantizers=2).audio_codes
    assert torch.equal(half.encode(x).codes, codes)
    assert torch.equal(half.reconstruct(x)[0, :, :3192], codec.model.decode(audio_codes=codes).audio_values)


@pytest.mark.parametrize(("name", "parameters", "rate"), [
    ("dac-44khz", 76_620_777, 44100 / 512),
    ("dac-24khz", 74_653_857, 75),
    ("dac-16khz", 74_141_697, 50),
    ("dac-44khz-16kbps", 64_189_873, 44100 / 512),
])  # fmt: skip
def test_published_sizes_and_exact_rates(name: str, parameters: int, rate: float) -> None:
    card = registry.get_card(name)
    with torch.device("meta"):
        codec = registry.build(card)
    assert sum(p.numel() for p in codec.parameters()) == parameters
    assert codec.spec.frame_rate == rate
    assert codec.spec.bitrate == rate * 10 * codec.spec.num_codebooks


def test_weight_norm_is_the_trained_size() -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in DAC(weight_norm=True).parameters()) == 76_651_890


# -- training ----------------------------------------------------------------------------------------------------------


def test_a_tiny_one_learns() -> None:
    codec = tiny(weight_norm=True, encoder_dim=4, decoder_dim=16, strides=[4, 4, 4]).train()
    loss = MultiScaleMelLoss(24000, windows=(128, 256), n_mels=(10, 20))
    optimizer = torch.optim.AdamW(codec.parameters(), lr=3e-3, betas=(0.8, 0.99))
    t = torch.arange(640) / 24000
    x = 0.3 * torch.sin(2 * torch.pi * torch.tensor([440.0, 660.0])[:, None, None] * t)
    history = []
    for _ in range(20):
        output = codec(x)
        total = 15 * loss(output.reconstruction, x) + output.quantizer_loss
        optimizer.zero_grad()
        total.backward()
        nn.utils.clip_grad_norm_(codec.parameters(), 10)
        optimizer.step()
        history.append(float(total.detach()))
    assert sum(history[-5:]) < 0.8 * sum(history[:5])


def test_quantizer_dropout_trains_prefixes_and_leaves_ids_alone() -> None:
    codec = tiny(quantizer_dropout=1.0).train()
    x = noise(8, 1, 3200)
    torch.manual_seed(0)
    first, second = codec(x), codec(x)
    assert torch.equal(first.ids, second.ids)
    assert first.ids.shape == (8, 10, 4)
    assert not torch.equal(first.reconstruction, second.reconstruction)
    fixed = tiny(quantizer_dropout=0.0).train()
    assert torch.equal(fixed(x).reconstruction, fixed(x).reconstruction)


def test_forward_without_dropout_is_decode_of_encode() -> None:
    codec = tiny()
    x = noise(2, 1, 3203)
    output = codec(x)
    assert torch.equal(output.ids, codec.encode(x).ids)
    torch.testing.assert_close(output.reconstruction, codec.reconstruct(x))


# -- conversion --------------------------------------------------------------------------------------------------------


class Snake(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.rand(1, dim, 1) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return x + (self.alpha + 1e-9).reciprocal() * torch.sin(self.alpha * x).square()


def _norm(conv: nn.Module) -> nn.Module:
    with pytest.warns(FutureWarning, match="weight_norm"):
        conv = nn.utils.weight_norm(conv)
    conv.weight_g.data *= 0.5 + torch.rand_like(conv.weight_g)  # as after training: no longer the norm of weight_v
    return conv


class Residual(nn.Module):
    def __init__(self, dim: int, dilation: int) -> None:
        super().__init__()
        wide = _norm(nn.Conv1d(dim, dim, 7, dilation=dilation, padding=3 * dilation))
        self.block = nn.Sequential(Snake(dim), wide, Snake(dim), _norm(nn.Conv1d(dim, dim, 1)))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.block(x)


class Block(nn.Module):
    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.block = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x)


class Quantize(nn.Module):
    """One stage: nearest of normalised entries, as the paper describes."""

    def __init__(self, dim: int, size: int, width: int) -> None:
        super().__init__()
        self.in_proj, self.out_proj = _norm(nn.Conv1d(dim, width, 1)), _norm(nn.Conv1d(width, dim, 1))
        self.codebook = nn.Embedding(size, width)

    def ids(self, x: Tensor) -> Tensor:
        wanted = nn.functional.normalize(self.in_proj(x).mT, dim=-1)
        return (wanted @ nn.functional.normalize(self.codebook.weight, dim=-1).mT).argmax(dim=-1)

    def features(self, ids: Tensor) -> Tensor:
        return self.out_proj(self.codebook(ids).mT)


class Original(nn.Module):
    """The original program's module tree, from its published layout."""

    def __init__(self, dim: int, latent: int, decoder: int, strides: tuple[int, ...], codebooks: int) -> None:
        super().__init__()
        pads = [math.ceil(s / 2) for s in strides]
        down = [
            Block(
                *(Residual(dim << i, d) for d in (1, 3, 9)),
                Snake(dim << i),
                _norm(nn.Conv1d(dim << i, dim << i + 1, 2 * s, s, p)),
            )
            for i, (s, p) in enumerate(zip(strides, pads, strict=True))
        ]
        top = dim << len(strides)
        ends = [Snake(top), _norm(nn.Conv1d(top, latent, 3, padding=1))]
        self.encoder = Block(_norm(nn.Conv1d(1, dim, 7, padding=3)), *down, *ends)
        up = []
        for i, (s, p) in enumerate(zip(strides[::-1], pads[::-1], strict=True)):
            wide, narrow = decoder >> i, decoder >> i + 1
            layers = [Snake(wide), _norm(nn.ConvTranspose1d(wide, narrow, 2 * s, s, p))]
            up.append(Block(*layers, *(Residual(narrow, d) for d in (1, 3, 9))))
        ends = [Snake(narrow), _norm(nn.Conv1d(narrow, 1, 7, padding=3)), nn.Tanh()]
        self.decoder = nn.Module()
        self.decoder.model = nn.Sequential(_norm(nn.Conv1d(latent, decoder, 7, padding=3)), *up, *ends)
        self.quantizer = nn.Module()
        self.quantizer.quantizers = nn.ModuleList(Quantize(latent, 64, 8) for _ in range(codebooks))

    def encode(self, x: Tensor) -> Tensor:
        rest, ids = self.encoder(x), []
        for stage in self.quantizer.quantizers:
            ids.append(stage.ids(rest))
            rest = rest - stage.features(ids[-1])
        return torch.stack(ids, dim=-1)

    def decode(self, ids: Tensor) -> Tensor:
        parts = [stage.features(ids[..., q]) for q, stage in enumerate(self.quantizer.quantizers)]
        return self.decoder.model(torch.stack(parts).sum(dim=0))


@pytest.fixture(scope="module")
def original() -> Original:
    torch.manual_seed(3)
    return Original(8, 24, 48, (2, 4, 5, 8), 3).eval()


def save(model: nn.Module, path: Path, **metadata: object) -> Path:
    torch.save({"state_dict": model.state_dict(), "metadata": metadata}, path)
    return path


@torch.no_grad()
def test_converted_weights_make_the_originals_tokens_and_samples(original: Original, tmp_path: Path) -> None:
    source = save(original, tmp_path / "weights.pth", kwargs={"sample_rate": 16000, "encoder_rates": [2, 4, 5, 8]})
    folder = CONVERTERS["dac"](source, tmp_path / "out")
    codec = registry.load(str(folder))
    assert codec.spec.sample_rate == 16000
    assert codec.config["strides"] == [2, 4, 5, 8]
    x = noise(2, 1, 9600)
    tokens = codec.encode(x)
    assert torch.equal(tokens.ids, original.encode(x))
    wave = original.decode(tokens.ids)
    torch.testing.assert_close(codec.decode(tokens)[..., : wave.shape[-1]], wave, atol=1e-6, rtol=1e-5)


def test_conversion_is_strict_both_ways(original: Original, tmp_path: Path) -> None:
    weights = original.state_dict()
    rate = tmp_path / "rate.json"
    rate.write_text(json.dumps({"sample_rate": 16000}))
    for spoil, words in (
        (
            lambda w: w.pop("decoder.model.2.block.3.block.1.bias"),
            r"missing keys.*decoder\.block\.1\.res_unit2\.conv1\.bias",
        ),
        (
            lambda w: w.pop("decoder.model.2.block.3.block.1.weight_g"),
            r"missing keys.*block\.3\.block\.1\.weight_g",
        ),
        (lambda w: w.update(surplus=torch.zeros(1)), r"unknown keys.*surplus"),
        (lambda w: w.update({"encoder.block.5.alpha": torch.ones(1, 4, 1)}), "wrong shapes.*snake1.alpha"),
        (lambda w: w.pop("decoder.model.0.weight_v"), "decoder.model.0.weight_v"),
        (lambda w: w.clear(), "not a DAC checkpoint"),
    ):
        spoilt = dict(weights)
        spoil(spoilt)
        torch.save({"state_dict": spoilt}, tmp_path / "w.pth")
        with pytest.raises(ValueError, match=words):
            convert_dac(tmp_path / "w.pth", tmp_path / "out", config=rate)
    assert not (tmp_path / "out").exists()


def test_a_file_without_metadata_asks_for_the_rate(original: Original, tmp_path: Path) -> None:
    source = save(original, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match="sample_rate"):
        convert_dac(source, tmp_path / "out")
    (tmp_path / "rate.json").write_text('{"sample_rate": 16000}')
    assert convert_dac(source, tmp_path / "out", config=tmp_path / "rate.json").is_dir()


@torch.no_grad()
def test_the_authors_program_agrees(tmp_path: Path) -> None:
    authors = pytest.importorskip("dac", reason="pip install descript-audio-codec")
    torch.manual_seed(5)
    theirs = authors.DAC(
        encoder_dim=8, encoder_rates=[2, 4, 5, 8], latent_dim=24, decoder_dim=48, decoder_rates=[8, 5, 4, 2],
        n_codebooks=3, codebook_size=64, sample_rate=16000,
    ).eval()  # fmt: skip
    theirs.save(str(tmp_path / "weights.pth"), package=False)
    codec = registry.load(str(convert_dac(tmp_path / "weights.pth", tmp_path / "out")))
    x = noise(1, 1, 9600)
    tokens = codec.encode(x)
    assert torch.equal(tokens.codes, theirs.encode(x)[1])
    wave = theirs.decode(theirs.quantizer.from_codes(tokens.codes)[0])
    torch.testing.assert_close(codec.decode(tokens)[..., : wave.shape[-1]], wave, atol=1e-6, rtol=1e-5)
