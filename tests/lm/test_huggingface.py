"""Codec tokens in Hugging Face tokenizers and models."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.lm.test_vocabulary import STREAMS, item
from tests.lm.tiny_llama import write_tiny_llama
from tokenizers_mm.lm.huggingface import AddedTokens, HuggingFaceLM
from tokenizers_mm.lm.vocabulary import PAD, Vocabulary

transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("tiny"))


def test_strings_hold_items_beside_text(folder: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    text = "a small dog <3"
    before = tokenizer(text).input_ids
    added = AddedTokens(tokenizer, Vocabulary([STREAMS["image"], STREAMS["residual"]], classes=2))
    items = [("image", item(STREAMS["image"], (1, 1), 0)), ("residual", item(STREAMS["residual"], (1, 4), 1))]
    whole = text + added.text(items[:1]) + " and " + added.text(items[1:])
    ids = tokenizer(whole).input_ids
    assert added.segments(tokenizer.decode(ids)) == items
    assert tokenizer(text).input_ids == before
    assert len(ids) <= len(tokenizer(text + " and ").input_ids) + 14 + 14
    document = added.vocabulary.document(items)
    theirs = added.to_theirs(document[None])[0]
    assert len(set(theirs.tolist())) == len(set(document[:, 0].tolist())) - 1  # begin and end are one token here


def test_a_finetuned_model_writes_what_it_was_shown(folder: Path, tmp_path: Path) -> None:
    network = HuggingFaceLM(str(folder), [STREAMS["fixed"].to_dict()])
    shown = item(STREAMS["fixed"], (1, 1), 0)
    optimizer = torch.optim.Adam(network.parameters(), 5e-3)
    text = "a large cat" + network.added.text([("fixed", shown)])
    for _ in range(30):
        optimizer.zero_grad()
        network.loss([text, text]).backward()
        optimizer.step()
    network.save_pretrained(tmp_path)
    again = HuggingFaceLM.from_pretrained(tmp_path)
    assert again.generate("a large cat", "fixed", do_sample=False) == shown


def test_nothing_but_items_can_come(folder: Path) -> None:
    torch.manual_seed(0)
    network = HuggingFaceLM(str(folder), [STREAMS["pictures"].to_dict(), STREAMS["image"].to_dict()])
    written = network.generate("a small dog", "image", do_sample=True)
    assert written.shapes.tolist() == [[3, 4]]
    with pytest.raises(ValueError, match="breaks off"):
        network.generate("a small dog", "image", max_steps=5, do_sample=True)


def test_padding_does_not_count(folder: Path) -> None:
    network = HuggingFaceLM(str(folder), [STREAMS["plain"].to_dict()]).eval()
    ids = network.vocabulary.document([("plain", item(STREAMS["plain"], (1, 5), 0))])[None]
    padded = torch.nn.functional.pad(ids, (0, 0, 0, 4), value=PAD)
    assert torch.allclose(network.loss(ids), network.loss(padded), atol=1e-5)


def test_steps_of_several_ids_are_refused(folder: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    with pytest.raises(ValueError, match="steps of one id"):
        AddedTokens(tokenizer, Vocabulary([STREAMS["delayed"]]))
