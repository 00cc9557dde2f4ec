"""TFM-Encoder on labelled tokens learns what they tell, and only for codecs that it fits."""

from __future__ import annotations

import pytest
import torch

from tokenizers_mm.eeg import EEGWaveformCodec, TFMTokenizer, finetune
from tokenizers_mm.evaluation.probe import Labelled
from tokenizers_mm.tokens import Tokens, TokenSpec


def labelled(spec: TokenSpec, items: int, seed: int) -> tuple[Labelled, Tokens]:
    """Tokens of four channels whose second takes its ids from one half of the codebook or the other."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.arange(items) % 2
    ids = torch.randint(0, 8, (items, 2, 3), generator=random)
    ids[:, 1] = ids[:, 1] % 4 + 4 * labels[:, None]
    tokens = Tokens(ids.flatten(1)[..., None], spec, shapes=torch.tensor([[2, 3]]).expand(items, 2))
    return Labelled(torch.zeros(items, 2, 400), labels), tokens


@pytest.mark.filterwarnings("ignore")
def test_classes_that_tokens_tell_are_learned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finetune, "PRETRAINING", 1)
    monkeypatch.setattr(finetune, "FINETUNING", 12)
    codec = TFMTokenizer(
        quantizer={"kind": "vq", "codebook_size": 8}, dim=16, heads=2, decoder_layers=1, time_layers=1
    ).eval()
    made = {
        side: labelled(codec.spec, items, i)
        for i, (side, items) in enumerate((("train", 64), ("valid", 20), ("test", 40)))
    }
    sides, tokens = ({side: pair[i] for side, pair in made.items()} for i in (0, 1))
    before = {name: value.clone() for name, value in codec.state_dict().items()}
    predicted = finetune.tfm_encoder(codec, sides, tokens, 0)
    assert predicted is not None
    assert float((predicted == sides["test"].labels).double().mean()) > 0.8
    for name, value in codec.state_dict().items():  # the tokenizer is not trained along
        assert torch.equal(value, before[name]), name


def test_codecs_of_several_codebooks_have_no_such_classifier() -> None:
    codec = EEGWaveformCodec(n_filters=4, dim=8)
    assert finetune.tfm_encoder(codec, {}, {}, 0) is None
