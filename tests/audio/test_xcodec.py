"""X-Codec, X-codec2, NeuCodec and Higgs Audio's tokenizer: ids and samples are the library's, lengths exact."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

pytest.importorskip("transformers")

from tokenizers_mm import registry
from tokenizers_mm.audio import HiggsAudio, NeuCodec, XCodec, XCodec2
from tokenizers_mm.audio.files import resample

DAC = {"encoder_hidden_size": 4, "decoder_hidden_size": 32, "hidden_size": 16}
SPEECH = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
HUBERT = {**SPEECH, "conv_dim": [8] * 7, "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2}
ACOUSTIC = {"acoustic": DAC, "semantic": {**HUBERT, "model_type": "hubert"}}
NETWORK = {
    **SPEECH,
    "hidden_size": 64,  # group norms of 32 groups need more than one value each, even in a single step
    "num_key_value_heads": 2,
    "head_dim": 32,
    "encoder_hidden_size": 2,
    "quantization_dim": 80,
    "initializer_range": 0.5,
    "semantic_model_config": {**SPEECH, "model_type": "wav2vec2-bert"},
}


def build(cls: type, **arguments: object) -> object:
    torch.manual_seed(0)
    return cls(**arguments).eval()


@pytest.fixture(scope="module")
def codecs() -> dict:
    return {
        "xcodec": build(XCodec, **ACOUSTIC),
        "wavlm": build(XCodec, acoustic=DAC, semantic={**HUBERT, "model_type": "wavlm"}, num_codebooks=5),
        "higgs": build(HiggsAudio, **ACOUSTIC),
        "xcodec2": build(XCodec2, network=NETWORK),
        "neucodec": build(NeuCodec, network=NETWORK),
        "neucodec-16k": build(NeuCodec, network=NETWORK, sample_rate=16000),
    }


def noise(*shape: int) -> Tensor:
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", ["xcodec", "wavlm", "higgs", "xcodec2", "neucodec", "neucodec-16k"])
def test_lengths_are_exact_and_tokens_vary(codecs: dict, name: str) -> None:
    codec = codecs[name]
    hop = codec.spec.hop[0]
    for samples in (1, hop - 1, hop, hop + 1, 6 * hop):
        tokens = codec.encode(noise(1, 1, samples))
        assert tokens.ids.shape == (1, math.ceil(samples / hop), codec.spec.num_codebooks)
        assert codec.decode(tokens).shape == (1, 1, samples)
    assert tokens.ids.unique().numel() > 1


@pytest.mark.parametrize("name", ["xcodec", "wavlm", "higgs"])
def test_residual_tokens_and_samples_are_the_librarys_at_every_bandwidth(codecs: dict, name: str) -> None:
    codec = codecs[name]
    x = noise(2, 1, 5 * codec.spec.hop[0])
    tokens = codec.encode(x)
    assert torch.equal(tokens.codes, codec.model.encode(x).audio_codes)
    assert torch.equal(codec.decode(tokens), codec.model.decode(tokens.codes).audio_values)
    per_codebook = codec.spec.bitrate / codec.spec.num_codebooks
    for columns in (1, 3):
        codec.model.config.target_bandwidths.insert(0, (columns + 0.5) * per_codebook / 1000)
        theirs = codec.model.encode(x, bandwidth=codec.model.config.target_bandwidths[0]).audio_codes
        codec.model.config.target_bandwidths.pop(0)
        assert torch.equal(codec.with_bitrate(columns * per_codebook / 1000).encode(x).codes, theirs)


def test_xcodec2_drops_only_the_step_that_the_library_adds_to_whole_hops(codecs: dict) -> None:
    codec = codecs["xcodec2"]
    for samples, extra in ((1600, 1), (1601, 0), (1919, 0)):
        x = noise(1, 1, samples)
        theirs = codec.model.encode(**codec.extract([x[0, 0]], sampling_rate=16000, return_tensors="pt")).audio_codes
        tokens = codec.encode(x)
        assert theirs.shape[-1] == tokens.ids.shape[1] + extra
        assert torch.equal(tokens.codes, theirs[..., : tokens.ids.shape[1]])
        assert torch.equal(codec.decode(tokens), codec.model.decode(tokens.codes).audio_values[..., :samples])


def test_neucodec_makes_the_librarys_tokens_of_whole_hops_and_speaks_24_khz(codecs: dict) -> None:
    narrow, wide = codecs["neucodec-16k"], codecs["neucodec"]
    x = noise(1, 1, 1600)
    theirs = narrow.model.encode(**narrow.extract([x[0, 0]], sampling_rate=16000, return_tensors="pt")).audio_codes
    tokens = narrow.encode(x)
    assert torch.equal(tokens.codes, theirs)
    spoken = narrow.model.decode(theirs).audio_values
    assert spoken.shape[-1] == 2400
    assert torch.equal(narrow.decode(tokens), resample(spoken, 24000, 16000))
    assert (wide.spec.hop, wide.spec.frame_rate, wide.spec.bitrate) == ((480,), 50, 800)
    high = noise(1, 1, 2400)
    assert wide.encode(high).ids.tolist() == narrow.encode(resample(high, 24000, 16000)).ids.tolist()
    assert torch.equal(wide.decode(wide.encode(high)), wide.model.decode(wide.encode(high).codes).audio_values)


def test_neucodec_refuses_a_rate_without_whole_hops() -> None:
    with pytest.raises(ValueError, match="sample_rate must make a step of 20 ms whole samples, got 22055"):
        NeuCodec(sample_rate=22055)


@pytest.mark.parametrize("name", ["xcodec", "higgs", "xcodec2", "neucodec"])
def test_hub_files_load_strictly(codecs: dict, name: str, tmp_path) -> None:
    codec = codecs[name]
    codec.model.save_pretrained(tmp_path)  # the layout of the hub: the library's own
    before = {key: value.clone() for key, value in codec.state_dict().items()}
    with torch.no_grad():
        for p in codec.parameters():
            p.add_(1)
    codec.load_weights(tmp_path / "model.safetensors")
    assert all(torch.equal(value, before[key]) for key, value in codec.state_dict().items())


def test_training_is_refused_in_words(codecs: dict) -> None:
    with pytest.raises(NotImplementedError, match="XCodec2 is for inference"):
        codecs["xcodec2"](noise(1, 1, 1600))


@pytest.mark.parametrize(("name", "parameters", "rate", "kbps"), [
    ("xcodec-hubert-librispeech", 160_698_625, 50, 4),
    ("higgs-audio-v2", 200_343_777, 25, 2),
    ("xcodec2", 629_281_706, 50, 0.8),
    ("neucodec", 629_937_706, 50, 0.8),
])  # fmt: skip
def test_published_sizes_and_rates(name: str, parameters: int, rate: float, kbps: float) -> None:
    with torch.device("meta"):
        codec = registry.build(registry.get_card(name))
    assert sum(p.numel() for p in codec.parameters()) == parameters
    assert codec.spec.frame_rate == rate
    assert codec.spec.bitrate == pytest.approx(1000 * kbps)
