"""Shipped models of tokens: they load by name, know their codecs' tokens, and expect samples better than chance does."""

from __future__ import annotations

import math

import pytest
import torch

import tokenizers_mm as tm
from tokenizers_mm import registry

SHIPPED = {
    "lm-image-caltech": {"image": "vqgan-128"},
    "lm-image-scales": {"image": "var-128"},
    "lm-speech-16k": {"speech": "wavtokenizer-speech-16k-500"},
    "lm-joint": {
        "image": "vqgan-128", "speech": "wavtokenizer-speech-16k-500", "eeg": "eeg-waveform", "series": "totem-etth1",
    },
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_shipped_models_know_the_tokens_of_their_codecs(name: str) -> None:
    network = tm.load_lm(name)
    streams = network.vocabulary.streams
    assert {stream.name: stream.codec for stream in streams} == SHIPPED[name]
    assert all(stream.spec == registry.get_card(stream.codec).spec for stream in streams)
    assert (registry.data_path("checkpoints") / name / "README.md").read_text().startswith("---\nlicense: apache-2.0\n")


def test_scales_cost_less_than_counts_say() -> None:
    """A picture of another kind; the ids of pictures like those that were trained on cost 9.7 bits counted alone."""
    files, codec = registry.wing("image", "files"), tm.load("var-128")
    picture = files.read(registry.data_path("eval") / "samples" / "images" / "hills-1.png", codec.spec)
    nats = tm.load_lm("lm-image-scales").score(codec.encode(picture[None]), "image")
    assert float(nats.mean()) / math.log(2) < 9


@pytest.mark.parametrize("name", ["lm-speech-16k", "lm-joint"])
def test_speech_that_no_model_has_heard_costs_less_than_chance(name: str) -> None:
    files = registry.wing("audio", "files")
    codec = tm.load("wavtokenizer-speech-16k-500")
    wave = files.read(registry.data_path("eval") / "samples" / "en-1.ogg", codec.spec)
    nats = tm.load_lm(name).score(codec.encode(wave[None]), "speech")
    assert float(nats.mean()) < 0.9 * math.log(1024)


def test_a_picture_costs_less_when_its_beginning_is_known() -> None:
    network = tm.load_lm("lm-image-caltech")
    assert network.vocabulary.class_names[0] == "Faces"
    white = tm.load("vqgan-128").encode(torch.ones(1, 3, 128, 128))
    nats = network.score(white, "image", labels=["Motorbikes"])[0, :, 0]
    assert nats[128:].mean() < 0.5 * math.log(8000)
