"""Files in the published layouts, strict both ways, give what the published networks written out give."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.eeg import published_eeg as published
from tokenizers_mm.eeg import LaBraMTokenizer, TFMEncoder, TFMTokenizer
from tokenizers_mm.eeg.convert import CONVERTERS
from tokenizers_mm.eeg.labram import electrode_rows
from tokenizers_mm.eeg.peers import PublishedTFM, adopt

NAMES = ["FP1", "CZ", "T3"]


def stored(tensors: dict[str, Tensor], folder: Path) -> Path:
    torch.save(tensors, folder / "published.pth")
    return folder / "published.pth"


def published_tfm(codes: int = 40) -> PublishedTFM:
    """A random network whose codes are what a signal has for features, so that many are in use."""
    model = PublishedTFM(codes, decoder_layers=2, plain=True).eval()
    model.load_state_dict(published.randomised({k: tuple(v.shape) for k, v in model.state_dict().items()}))
    with torch.no_grad():
        features = model.features(50 * torch.randn(4, 2000)).flatten(0, 1)
        model.quantizer.embedding.weight.copy_(features[:codes])
    return model


def test_a_published_tokenizer_gives_its_ids_and_spectra(tmp_path: Path) -> None:
    model = published_tfm()
    folder = CONVERTERS["tfm"](stored(model.state_dict(), tmp_path), tmp_path / "ours")
    codec = TFMTokenizer.from_pretrained(folder)
    x = 50 * torch.randn(2, 3, 1000)
    with torch.no_grad():
        ids = model.encode(x.flatten(0, 1))
        spectrum = model.spectrum(model.quantizer.embedding(ids))
    assert torch.equal(codec.encode(x).ids[..., 0], ids.view(2, -1))
    assert len(ids.unique()) > 10
    with torch.no_grad():
        torch.testing.assert_close(codec.magnitudes(ids[..., None]), spectrum, atol=1e-5, rtol=1e-4)


def test_the_network_to_race_against_takes_our_weights_and_gives_our_ids(tmp_path: Path) -> None:
    model = published_tfm()
    codec = TFMTokenizer.from_pretrained(CONVERTERS["tfm"](stored(model.state_dict(), tmp_path), tmp_path / "ours"))
    for plain in (True, False):
        other = PublishedTFM(40, decoder_layers=2, plain=plain).eval()
        adopt(other, codec)
        for key, tensor in model.state_dict().items():
            assert torch.equal(other.state_dict()[key], tensor), key
        x = 50 * torch.randn(1, 4, 2000)
        with torch.no_grad():
            assert torch.equal(other.encode(x[0]).flatten(), codec.encode(x).ids.flatten())


@pytest.mark.parametrize(("classes", "total"), [(6, 724_998), (1, 724_673)])
def test_a_published_encoder_gives_its_scores(classes: int, total: int, tmp_path: Path) -> None:
    tensors = published.tfm_encoder_checkpoint(classes)
    encoder = TFMEncoder.from_pretrained(CONVERTERS["tfm-encoder"](stored(tensors, tmp_path), tmp_path / "ours"))
    assert sum(p.numel() for p in encoder.parameters()) == total
    ids = torch.randint(0, 8193, (2, 4, 9))
    with torch.no_grad():
        outputs = published.tfm_encoder(tensors, ids)
        torch.testing.assert_close(encoder(ids), outputs[:, 0], atol=1e-5, rtol=1e-5)
        every = encoder.token_logits(ids).flatten(1, 2)
    torch.testing.assert_close(every, outputs[:, 1:], atol=1e-5, rtol=1e-5)


def test_a_published_labram_gives_its_ids_and_spectra(tmp_path: Path) -> None:
    tensors = published.labram_checkpoint(2, 1)
    x, rows = 50 * torch.randn(2, 3, 600), list(electrode_rows(NAMES))
    features = published.labram_features(tensors, x.view(2, 3, 3, 200) / 100, rows)
    tensors["quantize.embedding.weight"] = F.normalize(features.flatten(0, 1) + 0.05 * torch.randn(18, 64), dim=-1)
    tensors["quantize.embedding.embed_avg"] = tensors["quantize.embedding.weight"].clone()
    tensors |= {key: torch.ones(18) for key in ("quantize.cluster_size", "quantize.embedding.cluster_size")}
    source = tmp_path / "vqnsp.pth"
    torch.save({"model": {**tensors, "loss_fn.weight": torch.ones(1), "teacher.x": torch.ones(1)}}, source)
    codec = LaBraMTokenizer.from_pretrained(CONVERTERS["labram"](source, tmp_path / "ours")).with_electrodes(NAMES)
    ids = (features @ tensors["quantize.embedding.weight"].T).argmax(-1)
    tokens = codec.encode(x)
    assert torch.equal(tokens.ids[..., 0], ids)
    assert len(ids.unique()) > 5
    amplitude, phase = published.labram_spectra(tensors, ids, rows, 3)
    spectra = torch.fft.fft(x.view(2, 9, 200) / 100)
    wave = torch.fft.irfft(
        torch.polar(*(_restored(p, t)[..., :101] for p, t in ((amplitude, spectra.abs()), (phase, spectra.angle())))),
        200,
    )
    torch.testing.assert_close(codec.decode(tokens), 100 * wave.view(2, 3, 600), atol=5e-3, rtol=1e-4)


def _restored(predicted: Tensor, target: Tensor) -> Tensor:
    out = predicted * target.std(dim=(1, 2), keepdim=True) + target.mean(dim=(1, 2), keepdim=True)
    return out if bool((target < 0).any()) else out.clamp(min=0)


@pytest.mark.parametrize("family", ["tfm", "tfm-encoder", "labram"])
def test_missing_unknown_and_misshapen_keys_are_named(family: str, tmp_path: Path) -> None:
    tensors = {
        "tfm": lambda: published_tfm().state_dict(),
        "tfm-encoder": lambda: published.tfm_encoder_checkpoint(2, tokens=20),
        "labram": lambda: published.labram_checkpoint(1, 1),
    }[family]()
    drop = {
        "tfm": "trans_decoder.transformer.layers.layers.0.0.norm.bias",
        "tfm-encoder": "LAT.layers.layers.0.0.norm.bias",
        "labram": "encoder.blocks.0.norm1.bias",
    }[family]
    changed = {key: tensor for key, tensor in tensors.items() if key != drop}
    with pytest.raises(ValueError, match=r"1 missing keys: \S*norm1\.bias"):
        CONVERTERS[family](stored(changed, tmp_path), tmp_path / "ours")
    with pytest.raises(ValueError, match=r"1 unknown keys: \S*surprise"):
        CONVERTERS[family](stored({**tensors, "surprise": torch.zeros(1)}, tmp_path), tmp_path / "ours")
    with pytest.raises(ValueError, match=r"wrong shapes: \S*norm1\.bias: expected .*, got \[3\]"):
        CONVERTERS[family](stored({**tensors, drop: torch.zeros(3)}, tmp_path), tmp_path / "ours")
    with pytest.raises(ValueError, match="missing keys"):
        CONVERTERS[family](stored({"weight": torch.zeros(1)}, tmp_path), tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


def test_one_of_query_key_and_value_missing_is_named(tmp_path: Path) -> None:
    tensors = published.tfm_encoder_checkpoint(2, tokens=20)
    del tensors["LAT.layers.layers.1.0.fn.to_k.weight"]
    with pytest.raises(ValueError, match=r"LAT\.layers\.layers\.1\.0\.fn\.to_k\.weight"):
        CONVERTERS["tfm-encoder"](stored(tensors, tmp_path), tmp_path / "ours")
