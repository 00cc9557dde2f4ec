"""A network's items one id at a time: the same numbers as all at once, less what the grid says, and files of them."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from tests.lm.test_vocabulary import STREAMS, item
from tokenizers_mm import bitstream
from tokenizers_mm.lm.compression import LMCoder
from tokenizers_mm.lm.document_model import DocumentModel, predictor
from tokenizers_mm.lm.predicts import Predicts
from tokenizers_mm.lm.token_lm import TokenLM
from tokenizers_mm.tokens import Tokens


def network(*names: str, seed: int = 0, **options: object) -> TokenLM:
    torch.manual_seed(seed)
    streams = [STREAMS[name].to_dict() for name in names]
    model = TokenLM(streams, dim=16, layers=2, heads=2, **options)  # type: ignore[arg-type]
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def stepwise(model: DocumentModel, tokens: Tokens) -> torch.Tensor:
    shape, columns = tokens.shapes[0].tolist(), tokens.spec.num_codebooks
    state, out = model.start(tokens.spec, shape), torch.zeros(tokens.ids.numel(), dtype=torch.float64)
    for place in model.coding_order(tokens.spec, shape).tolist():
        code, p = int(tokens.ids.flatten()[place]), state.probabilities()
        assert p.shape == (tokens.spec.codebook_sizes[place % columns],)
        assert p.sum() == pytest.approx(1)
        out[place] = -math.log(p[code])
        state.push(code)
    return out.view(tokens.ids.shape)


@pytest.mark.parametrize("name", sorted(STREAMS))
def test_steps_say_what_the_whole_says_but_for_what_the_grid_says(name: str) -> None:
    model, tokens = DocumentModel(network(name, "plain" if name == "snac" else "snac")), item(STREAMS[name], (3, 5), 0)
    assert sorted(model.coding_order(tokens.spec, tokens.shape)) == list(range(tokens.ids.numel()))
    whole, steps = model.nll(tokens), stepwise(model, tokens)
    if STREAMS[name].closed:
        assert torch.allclose(steps, whole, atol=1e-4)
    else:  # an end is never a surprise
        assert bool((steps <= whole + 1e-4).all())
        assert not torch.allclose(steps, whole, atol=1e-4)
        assert torch.isclose(steps, whole, atol=1e-4).any()


@pytest.mark.parametrize(
    ("name", "options"), [("parallel", {"depth": {"dim": 16, "layers": 1, "heads": 2}}), ("image", {"rope": "2d"})]
)
def test_steps_say_what_the_whole_says_in_other_networks(name: str, options: dict[str, object]) -> None:
    model, tokens = DocumentModel(network(name, **options)), item(STREAMS[name], (3, 5), 0)
    steps, whole = stepwise(model, tokens), model.nll(tokens)
    told = slice(
        0 if STREAMS[name].closed else 1, None
    )  # where an item may end, the whole's first column has a share for that
    assert torch.allclose(steps[..., told], whole[..., told], atol=1e-4)


def test_items_of_a_class_are_those_of_its_documents() -> None:
    found = network("image", classes=3)
    tokens = item(STREAMS["image"], (3, 4), 0)
    of_two = DocumentModel(found, 2)
    assert torch.allclose(of_two.nll(tokens), found.score(tokens, "image", [2]).double())
    assert torch.allclose(stepwise(of_two, tokens), of_two.nll(tokens), atol=1e-4)
    assert DocumentModel(found).fingerprint != of_two.fingerprint


@pytest.mark.parametrize("name", ["pictures", "delayed", "eeg"])
def test_files_come_back(name: str, tmp_path: Path) -> None:
    network(name, "snac").save_pretrained(tmp_path / "lm")
    tokens = Tokens.cat([item(STREAMS[name], (2, 2), 1), item(STREAMS[name], (1, 3), 2)])
    tokens.save(tmp_path / "a.mmt", lm=tmp_path / "lm")
    assert Tokens.load(tmp_path / "a.mmt", lm=tmp_path / "lm") == tokens
    coder = LMCoder.load(tmp_path / "lm")
    assert 8 * len(coder.encode(tokens)) <= 1.01 * coder.ideal_bits(tokens) + 64
    other = LMCoder(DocumentModel(network(name, "snac", seed=1)))
    with pytest.raises(bitstream.BitstreamError, match="coded with the language model"):
        bitstream.load(tmp_path / "a.mmt", coder=other)


def test_tokens_of_no_or_several_streams_are_refused() -> None:
    model = DocumentModel(network("delayed", "parallel", "image"))
    with pytest.raises(ValueError, match="got 2 of delayed, parallel"):
        model.nll(item(STREAMS["delayed"], (1, 3), 0))
    with pytest.raises(ValueError, match="got 0 of delayed, parallel, image"):
        model.start(STREAMS["plain"].spec, (4,))


def test_what_predicts_is_taken_as_it_is() -> None:
    model = network("image")
    assert isinstance(predictor(model), DocumentModel)
    assert isinstance(predictor(model), Predicts)
    assert predictor(found := DocumentModel(model)) is found
    with pytest.raises(TypeError, match="language model of tokens, got Linear"):
        predictor(torch.nn.Linear(1, 1))
