"""Vocos over EnCodec's tokens: interchangeable tokens, the published package as an oracle, and what its training moves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor

import tokenizers_mm as tm

pytest.importorskip("transformers")

from tokenizers_mm.audio import Encodec, Vocos
from tokenizers_mm.audio.convert.vocos import CODEBOOKS, convert_vocos

SMALL: dict[str, Any] = {"dim": 32, "intermediate_dim": 48, "layers": 2}
TINY: dict[str, Any] = {
    **SMALL,
    "n_filters": 4,
    "codebook_dim": 16,
    "codebook_size": 32,
    "bandwidths": [0.75, 1.5, 3.0],
}


def noise(*shape: int) -> Tensor:
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def tiny(**changes: Any) -> Vocos:
    torch.manual_seed(0)
    codec = Vocos(**{**TINY, **changes}).eval()
    for norm in (m for m in codec.backbone.modules() if isinstance(getattr(m, "shift", None), torch.nn.Embedding)):
        torch.nn.init.normal_(norm.shift.weight)  # alike before training
    return codec


def test_published_sizes() -> None:
    card = next(card for card in tm.list_codecs() if card.name == "vocos-encodec-24khz")
    with torch.device("meta"):
        codec = Vocos()
    assert codec.spec == card.spec
    assert sum(p.numel() for p in codec.parameters() if p.requires_grad) == 7_984_258
    assert codec.columns == [2, 4, 8, 16]
    assert codec.head.n_fft == 1280


def test_tokens_are_encodecs_own() -> None:
    torch.manual_seed(1)
    network = {"n_filters": 4, "dim": 16, "codebook_size": 32}
    encodec, codec = Encodec(**network, num_codebooks=9).eval(), tiny()
    codec.adopt(encodec)
    x = noise(3, 1, 5000)
    lengths = torch.tensor([5000, 777, 1])
    cheaper = encodec.with_bitrate(3.0)
    tokens = cheaper.encode(x, lengths)
    assert tokens.spec == codec.spec
    assert codec.encode(x, lengths) == tokens
    assert codec.decode(tokens).shape == (3, 1, 5000)
    assert codec.with_bitrate(1.5).encode(x, lengths) == encodec.with_bitrate(1.5).encode(x, lengths)


def test_an_encodec_of_another_network_is_refused() -> None:
    with pytest.raises(ValueError, match="wrong shapes"):
        tiny().adopt(Encodec(n_filters=8, dim=16, codebook_size=32, num_codebooks=8))
    with pytest.raises(ValueError, match="missing keys"):
        tiny().adopt(Encodec(n_filters=4, dim=16, codebook_size=32, num_codebooks=7))


def test_the_bitrate_conditions_the_decoder() -> None:
    """Codebooks between two bandwidths take the higher one's condition: what is learned for it changes them, the lower's not."""
    codec = tiny()
    tokens = codec.encode(noise(1, 1, 3000))
    columns = range(1, 9)
    before = [codec.decode(tokens.prefix(columns=q)) for q in columns]
    with torch.no_grad():
        codec.backbone.norm.shift.weight[1] += 1
    changed = [
        not torch.equal(codec.decode(tokens.prefix(columns=q)), old) for q, old in zip(columns, before, strict=True)
    ]
    assert codec.columns == [2, 4, 8]
    assert changed == [False, False, True, True, False, False, False, False]


@pytest.mark.parametrize("bandwidths", [[], [0.1], [3.0, 1.5], [1.5, 1.6]])
def test_impossible_bandwidths_are_refused(bandwidths: list[float]) -> None:
    with pytest.raises(ValueError, match="must rise by whole codebooks"):
        Vocos(**{**TINY, "bandwidths": bandwidths})


# -- the package as an oracle ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, Any]:
    """Backbone and head of the package with random weights, and the files of a checkpoint beside EnCodec's."""
    pytest.importorskip("encodec")  # which the package imports
    pytest.importorskip("vocos")
    from vocos.heads import ISTFTHead
    from vocos.models import VocosBackbone

    folder = tmp_path_factory.mktemp("vocos")
    torch.manual_seed(0)
    backbone = VocosBackbone(128, SMALL["dim"], SMALL["intermediate_dim"], SMALL["layers"], adanorm_num_embeddings=4)
    head = ISTFTHead(SMALL["dim"], 1280, 320)
    for name, tensor in backbone.named_parameters():
        if "shift" in name or "scale" in name:
            torch.nn.init.normal_(tensor, std=0.5)
    encodec = Encodec()
    (folder / "encodec").mkdir()
    hub = {key.removeprefix("model."): tensor for key, tensor in encodec.state_dict().items()}
    save_file(hub, folder / "encodec" / "model.safetensors")
    codebooks = torch.cat([layer.codebook.embed for layer in encodec.model.quantizer.layers[:16]])
    state = {f"backbone.{key}": tensor for key, tensor in backbone.state_dict().items()}
    state |= {f"head.{key}": tensor for key, tensor in head.state_dict().items()} | {CODEBOOKS: codebooks}
    torch.save(state, folder / "pytorch_model.bin")
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    return folder, backbone.eval(), head.eval()


CONFIG = {
    "feature_extractor": {
        "class_path": "vocos.feature_extractors.EncodecFeatures",
        "init_args": {"encodec_model": "encodec_24khz", "bandwidths": [1.5, 3.0, 6.0, 12.0]},
    },
    "backbone": {
        "class_path": "vocos.models.VocosBackbone",
        "init_args": {
            "input_channels": 128,
            "dim": SMALL["dim"],
            "intermediate_dim": SMALL["intermediate_dim"],
            "num_layers": SMALL["layers"],
            "adanorm_num_embeddings": 4,
        },
    },
    "head": {
        "class_path": "vocos.heads.ISTFTHead",
        "init_args": {"dim": SMALL["dim"], "n_fft": 1280, "hop_length": 320, "padding": "same"},
    },
}


@torch.no_grad()
def test_equals_the_published_package(published: tuple[Path, Any, Any], tmp_path: Path) -> None:
    folder, backbone, head = published
    codec = tm.load(convert_vocos(folder, tmp_path))
    assert isinstance(codec, Vocos)
    tokens = codec.encode(noise(2, 1, 8000))
    encodec = Encodec().eval()
    encodec.load_weights(folder / "encodec" / "model.safetensors")
    assert torch.equal(tokens.ids, encodec.encode(noise(2, 1, 8000)).ids[..., :16])
    table = torch.load(folder / "pytorch_model.bin", weights_only=True)[CODEBOOKS].reshape(16, 1024, 128)
    for bandwidth, columns in enumerate((2, 4, 8, 16)):
        features = sum(table[q][tokens.ids[..., q]] for q in range(columns)).mT
        wave = head(backbone(features, bandwidth_id=torch.tensor([bandwidth])))
        torch.testing.assert_close(codec.decode(tokens.prefix(columns=columns))[:, 0], wave, atol=1e-5, rtol=1e-4)


def test_converter_refuses_what_does_not_fit(published: tuple[Path, Any, Any], tmp_path: Path) -> None:
    folder, _, _ = published
    state = torch.load(folder / "pytorch_model.bin", weights_only=True)
    weights = tmp_path / "pytorch_model.bin"
    config = folder / "config.yaml"
    encodec = folder / "encodec" / "model.safetensors"

    def convert(tensors: dict[str, Tensor]) -> None:
        torch.save(tensors, weights)
        convert_vocos(weights, tmp_path / "out", config=config, encodec=encodec)

    with pytest.raises(ValueError, match=r"1 missing keys: head\.out\.bias"):
        convert({key: tensor for key, tensor in state.items() if key != "head.out.bias"})
    with pytest.raises(ValueError, match=r"1 unknown keys: head\.more"):
        convert({**state, "head.more": torch.zeros(1)})
    with pytest.raises(ValueError, match="not the codebooks"):
        convert({**state, CODEBOOKS: state[CODEBOOKS] + 0.1})
    with pytest.raises(ValueError, match="missing key feature_extractor"):
        convert({key: tensor for key, tensor in state.items() if key != CODEBOOKS})
    with pytest.raises(FileNotFoundError, match="hf download facebook/encodec_24khz"):
        convert_vocos(weights, tmp_path / "out", config=config)
    with pytest.raises(FileNotFoundError, match="config must be a YAML file"):
        convert_vocos(weights, tmp_path / "out")


def test_the_mel_vocoder_is_refused(published: tuple[Path, Any, Any], tmp_path: Path) -> None:
    mel = {**CONFIG, "feature_extractor": {"class_path": "vocos.feature_extractors.MelSpectrogramFeatures"}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(mel))
    with pytest.raises(ValueError, match="expected EncodecFeatures, got MelSpectrogramFeatures"):
        convert_vocos(published[0], tmp_path / "out", config=tmp_path / "config.yaml")
    (tmp_path / "config.yaml").write_text("backbone: [")
    with pytest.raises(ValueError, match="reading that failed"):
        convert_vocos(published[0], tmp_path / "out", config=tmp_path / "config.yaml")


# -- training ----------------------------------------------------------------------------------------------------------


def test_training_moves_the_decoder_and_leaves_the_tokens_alone(tmp_path: Path) -> None:
    codec = tiny().train()
    optimizer = torch.optim.Adam([p for p in codec.parameters() if p.requires_grad], 3e-3)
    t = torch.arange(6400) / 24000
    x = 0.3 * torch.sin(2 * torch.pi * torch.tensor([[[220.0]], [[330.0]]]) * t)
    tokens, window = codec.encode(x), torch.hann_window(512)
    history = []
    for _ in range(60):
        output = codec(x)
        a, b = (torch.stft(y[:, 0], 512, window=window, return_complex=True).abs() for y in (output.reconstruction, x))
        loss = (a - b).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(float(loss.detach()))
    assert sum(history[-5:]) < 0.8 * sum(history[:5])
    assert codec.encode(x) == tokens
    codec.save_pretrained(tmp_path)
    assert not any("decoder" in key for key in load_file(tmp_path / "model.safetensors"))


def test_training_draws_every_bandwidth() -> None:
    codec = tiny().train()
    x = noise(1, 1, 640)
    waves = {round(float(codec(x).reconstruction.detach().abs().sum()), 4) for _ in range(30)}
    assert len(waves) == 3
