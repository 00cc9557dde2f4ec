"""The codec base class: checkpoints in every state of repair, bitrates, streams that do not exist."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from huggingface_hub import HfApi
from safetensors.torch import load_file, save_file

from tokenizers_mm.audio import WavTokenizer
from tokenizers_mm.codec import Codec, CodecOutput
from tokenizers_mm.tokens import Tokens, TokenSpec

TINY = {
    "sample_rate": 16000,
    "strides": [2, 4, 5, 8],
    "encoder": "stft",
    "encoder_dim": 16,
    "encoder_layers": 1,
    "dim": 16,
    "intermediate_dim": 32,
    "layers": 1,
    "attention": False,
    "num_embeddings": 0,
    "quantizer": {"kind": "rvq", "codebook_size": 16, "num_codebooks": 3},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    WavTokenizer(**TINY).save_pretrained(tmp_path / "codec")
    return tmp_path / "codec"


def test_folder_holds_config_and_safetensors_only(folder: Path) -> None:
    assert {p.name for p in folder.iterdir()} == {"config.json", "model.safetensors", "README.md"}
    config = json.loads((folder / "config.json").read_text())
    assert config["class"] == "WavTokenizer"
    assert {k: config[k] for k in TINY} == TINY
    card = (folder / "README.md").read_text()
    assert 'tm.load("this-folder")' in card
    assert "sample rate: 16000" in card
    assert "More Information Needed" not in card


def test_from_pretrained_gives_the_same_codec_in_eval_mode(folder: Path) -> None:
    codec = WavTokenizer.from_pretrained(folder)
    again = WavTokenizer.from_pretrained(str(folder))
    assert not codec.training
    assert codec.config == again.config
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in codec.state_dict().items())


def test_half_precision_halves_the_file_and_loads_as_float32(folder: Path, tmp_path: Path) -> None:
    codec = WavTokenizer.from_pretrained(folder)
    codec.save_pretrained(tmp_path / "half", dtype=torch.float16)
    assert next(codec.parameters()).dtype == torch.float32
    sizes = [(path / "model.safetensors").stat().st_size for path in (folder, tmp_path / "half")]
    assert sizes[1] < 0.6 * sizes[0]
    loaded = WavTokenizer.from_pretrained(tmp_path / "half")
    assert next(loaded.parameters()).dtype == torch.float32
    for key, value in loaded.state_dict().items():
        expected = codec.state_dict()[key]
        assert torch.equal(value, expected.half().to(expected.dtype) if expected.is_floating_point() else expected)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda t: t.pop("head.out.bias"), "1 missing keys"),
        (lambda t: t.update(stranger=torch.zeros(1)), "extra keys.*stranger"),
        (lambda t: t.update({"head.out.bias": torch.zeros(3)}), r"head.out.bias: expected \[1282\], got \[3\]"),
    ],
)
def test_weights_that_do_not_fit_are_named(folder: Path, spoil, words: str) -> None:
    tensors = load_file(folder / "model.safetensors")
    spoil(tensors)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ValueError, match=words):
        WavTokenizer.from_pretrained(folder)


def test_failed_load_leaves_the_codec_as_it_was(folder: Path) -> None:
    codec = WavTokenizer(**TINY)
    before = {k: v.clone() for k, v in codec.state_dict().items()}
    tensors = load_file(folder / "model.safetensors")
    tensors.pop("head.out.bias")
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ValueError, match="missing"):
        codec.load_weights(folder / "model.safetensors")
    assert all(torch.equal(v, before[k]) for k, v in codec.state_dict().items())


def test_truncated_weights_are_one_clear_error(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        WavTokenizer.from_pretrained(folder)


def test_pickled_weights_are_never_opened(folder: Path) -> None:
    (folder / "model.safetensors").unlink()

    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("a pickle was opened",))

    torch.save({"x": Bomb()}, folder / "pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors"):
        WavTokenizer.from_pretrained(folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"class": "Dac"}, "for class 'Dac'"),
        ({"stridse": [2]}, "stridse"),
        ({"encoder": "mel"}, "'seanet' or 'stft'"),
    ],
)
def test_wrong_configs_are_named(folder: Path, change: dict, words: str) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(ValueError, match=words):
        WavTokenizer.from_pretrained(folder)


def test_push_to_hub_uploads_exactly_the_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    uploaded: dict = {}

    def upload(self, *, repo_id: str, folder_path: Path, **_) -> None:
        uploaded[repo_id] = {p.name for p in Path(folder_path).iterdir()}

    monkeypatch.setattr(HfApi, "create_repo", lambda self, repo_id, **_: type("Url", (), {"repo_id": repo_id}))
    monkeypatch.setattr(HfApi, "upload_folder", upload)
    WavTokenizer(**TINY).push_to_hub("someone/codec")
    assert uploaded == {"someone/codec": {"config.json", "model.safetensors", "README.md"}}


def test_bitrate_picks_the_most_codebooks_that_fit() -> None:
    codec = WavTokenizer(**TINY).eval()
    x = 0.1 * torch.randn(1, 1, 6400)
    full = codec.encode(x)
    for kbps, columns in ((0.2, 1), (0.39, 1), (0.4, 2), (0.6, 3), (99, 3)):
        view = codec.with_bitrate(kbps)
        assert view.spec.num_codebooks == columns
        assert torch.equal(view.encode(x).ids, full.ids[..., :columns])
        assert view.reconstruct(x).shape == x.shape
    assert codec.spec.num_codebooks == 3
    with pytest.raises(ValueError, match=r"at least 0\.2"):
        codec.with_bitrate(0.1)


def test_encode_and_decode_refuse_what_is_not_theirs() -> None:
    codec = WavTokenizer(**TINY).eval()
    with pytest.raises(ValueError, match=r"audio \[B, 1, N\] at 16000 Hz, got \[2, 48000\]"):
        codec.encode(torch.zeros(2, 48000))
    with pytest.raises(ValueError, match="not causal"):
        codec.stream()
    with pytest.raises(ValueError, match="lengths must be 1 whole numbers"):
        codec.encode(torch.zeros(1, 1, 10), torch.tensor([1.5]))
    tokens = codec.encode(torch.zeros(1, 1, 640))
    with pytest.raises(ValueError, match="at least one step"):
        codec.decode(tokens[:0])
    with pytest.raises(ValueError, match=r"ids\[0, 0, 0\] must be in \[0, 16\), got 16"):
        type(tokens)(torch.full((1, 2, 3), 16), codec.spec)


class Rounding(Codec):
    """A codec without a single parameter: every sample is one of 256 levels."""

    def __init__(self) -> None:
        super().__init__()
        self.spec = TokenSpec("audio", (256,), hop=(1,), sample_rate=8000)

    def _encode(self, x: torch.Tensor, lengths: torch.Tensor) -> Tokens:
        return Tokens(((x.mT + 1) * 127.5).round().long().clamp(0, 255), self.spec)

    def _decode(self, tokens: Tokens) -> torch.Tensor:
        return tokens.ids.mT / 127.5 - 1

    def forward(self, x: torch.Tensor, lengths: torch.Tensor | None = None) -> CodecOutput:
        tokens = self._encode(x, torch.tensor([]))
        return CodecOutput(self._decode(tokens), tokens.ids, x.new_zeros(()))


def test_a_codec_needs_no_parameters() -> None:
    x = torch.linspace(-1, 1, 50)[None, None]
    torch.testing.assert_close(Rounding().reconstruct(x), x, atol=1 / 255, rtol=0)
    torch.testing.assert_close(Rounding().reconstruct(x.double()).double(), x.double(), atol=1 / 255, rtol=0)
