"""TFM-Encoder: published sizes, hidden tokens, its frozen tokenizer, losses, bad ids."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

from tokenizers_mm.eeg import EEGWaveformCodec, TFMEncoder, TFMTokenizer
from tokenizers_mm.training.classifier import ClassifierModule, focal_loss
from tokenizers_mm.training.frozen import FrozenTokenizer
from tokenizers_mm.training.masked import MaskedTokenModule

SMALL = {"codebook_size": 32, "dim": 64, "layers": 1}


def tokenizer() -> TFMTokenizer:
    return TFMTokenizer(decoder_layers=1, quantizer={"kind": "vq", "codebook_size": 32})


@pytest.mark.parametrize(("classes", "total"), [(6, 724_998), (1, 724_673), (8192, 1_257_088)])
def test_published_sizes(classes: int, total: int) -> None:
    encoder = TFMEncoder(num_classes=classes)
    assert sum(p.numel() for p in encoder.parameters()) == total


def test_shapes_and_the_hidden_token() -> None:
    encoder = TFMEncoder(num_classes=5, **SMALL).eval()
    ids = torch.randint(0, 33, (2, 4, 9))
    ids[0, 0, 0] = encoder.mask_id
    assert encoder.mask_id == 32
    assert encoder(ids).shape == (2, 5)
    assert encoder.token_logits(ids).shape == (2, 4, 9, 5)
    assert encoder(ids[:, :, :1]).shape == (2, 5)


def test_order_in_time_and_channels_both_matter() -> None:
    encoder = TFMEncoder(num_classes=5, **SMALL).eval()
    ids = torch.randint(0, 32, (1, 4, 9))
    assert not torch.allclose(encoder(ids), encoder(ids.flip(2)), atol=1e-4)
    assert not torch.allclose(encoder(ids), encoder(ids.flip(1)), atol=1e-4)


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        (torch.zeros(1, 17, 3, dtype=torch.long), "at most 16 channels, got 17"),
        (torch.zeros(1, 1, 1001, dtype=torch.long), "at most 1000 steps, got 1001"),
        (torch.full((1, 2, 3), 33), "0 to 32, got 33 to 33"),
        (torch.full((1, 2, 3), -1), "0 to 32, got -1 to -1"),
        (torch.zeros(1, 2, 3), "integers"),
        (torch.zeros(2, 3, dtype=torch.long), r"\[B, C, T\]"),
    ],
)
def test_bad_ids_are_refused(ids: torch.Tensor, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        TFMEncoder(**SMALL)(ids)


def test_embeddings_start_from_the_codes_and_the_hidden_one_at_zero() -> None:
    encoder, codec = TFMEncoder(**SMALL), tokenizer()
    encoder.start_from(codec)
    assert torch.equal(encoder.token_embedding.weight[:32], codec.quantizer.stages[0].codebook)
    assert not encoder.token_embedding.weight[32].any()
    with pytest.raises(ValueError, match="one codebook of 33"):
        TFMEncoder(codebook_size=33).start_from(codec)
    with pytest.raises(ValueError, match="codes must be 32 wide, got 64"):
        TFMEncoder(codebook_size=32, dim=32).start_from(codec)


def test_a_saved_encoder_gives_the_same_scores(tmp_path: Path) -> None:
    encoder = TFMEncoder(num_classes=3, **SMALL).eval()
    encoder.save_pretrained(tmp_path)
    ids = torch.randint(0, 32, (2, 3, 4))
    assert torch.equal(TFMEncoder.from_pretrained(tmp_path)(ids), encoder(ids))


def test_a_frozen_tokenizer_stays_as_it_is_in_training() -> None:
    module = ClassifierModule(TFMEncoder(num_classes=2, **SMALL), tokenizer(), num_classes=2).train()
    before = {name: value.clone() for name, value in module.codec.state_dict().items()}
    assert module.training
    assert module.network.training
    assert not any(m.training for m in module.tokenizer.modules())
    assert not any(p.requires_grad for p in module.tokenizer.parameters())
    x = 50 * torch.randn(4, 3, 400)
    ids = module.tokenizer(x)
    assert ids.shape == (4, 3, 3)
    assert torch.equal(ids, module.codec.encode(x).ids.view(4, 3, 3))
    loss = module._loss(module(x), torch.tensor([0, 1, 1, 0]))
    loss.backward()
    assert all(p.grad is None for p in module.tokenizer.parameters())
    assert all(p.grad is not None for p in module.network.parameters())
    assert all(torch.equal(value, before[name]) for name, value in module.codec.state_dict().items())


def test_codecs_of_several_codebooks_cannot_be_classified() -> None:
    with pytest.raises(ValueError, match="one codebook on a grid"):
        FrozenTokenizer(EEGWaveformCodec(n_filters=4, dim=8))


def test_pretraining_asks_for_every_token_once_and_never_shows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    network = TFMEncoder(num_classes=32, **SMALL)
    module = MaskedTokenModule(network, tokenizer())
    seen = []
    real = network.token_logits
    monkeypatch.setattr(network, "token_logits", lambda ids: seen.append(ids) or real(ids))
    x = 50 * torch.randn(2, 3, 1000)
    loss, accuracy = module._losses({"signal": x})
    hidden = [ids == network.mask_id for ids in seen]
    assert torch.equal(hidden[0] ^ hidden[1], torch.ones_like(hidden[0]))
    ids = module.tokenizer(x)
    assert all(torch.equal(view[~h], ids[~h]) for view, h in zip(seen, hidden, strict=True))
    assert 0 <= float(accuracy) <= 1
    loss.backward()
    assert all(p.grad is not None for p in network.parameters())
    with pytest.raises(ValueError, match=r"mask_ratio must be between 0 and 1, got 1\.0"):
        MaskedTokenModule(network, tokenizer(), mask_ratio=1.0)


def test_the_focal_loss_is_its_formula_and_that_of_torchvision() -> None:
    logits, label = 2 * torch.randn(50), torch.randint(0, 2, (50,))
    p, y = logits.sigmoid(), label.float()
    wanted = -0.8 * (1 - p) ** 0.7 * y * p.log() - 0.2 * p**0.7 * (1 - y) * (1 - p).log()
    torch.testing.assert_close(focal_loss(logits, label), wanted.mean())
    other = sigmoid_focal_loss(logits, y, alpha=0.8, gamma=0.7, reduction="mean")
    torch.testing.assert_close(focal_loss(logits, label), other)
    plain = F.binary_cross_entropy_with_logits(logits, y)
    torch.testing.assert_close(2 * focal_loss(logits, label, alpha=0.5, gamma=0.0), plain)
    assert torch.isfinite(focal_loss(torch.tensor([200.0, -200.0]), torch.tensor([0, 1])))


@pytest.mark.parametrize(("loss", "classes"), [("cross_entropy", 1), ("focal", 3), ("binary", 2)])
def test_losses_that_do_not_go_with_the_scores_are_refused(loss: str, classes: int) -> None:
    with pytest.raises(ValueError, match="loss must be cross_entropy for several classes"):
        ClassifierModule(TFMEncoder(num_classes=classes, **SMALL), tokenizer(), classes, loss=loss)


def test_pretrained_weights_go_on_under_another_head(tmp_path: Path) -> None:
    pretrained = TFMEncoder(num_classes=32, **SMALL)
    pretrained.save_pretrained(tmp_path)
    module = ClassifierModule(TFMEncoder(num_classes=2, **SMALL), tokenizer(), 2, init_from=str(tmp_path))
    own = module.network.state_dict()
    assert all(torch.equal(own[k], v) for k, v in pretrained.state_dict().items() if not k.startswith("head."))
    with pytest.raises(ValueError, match="does not fit TFMEncoder"):
        ClassifierModule(TFMEncoder(num_classes=2, codebook_size=32, layers=2), tokenizer(), 2, init_from=str(tmp_path))
