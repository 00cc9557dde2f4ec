"""Hypernetworks: the published network and its weights, surface forms, what training it starts from and reaches."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from tests.text.plain_zett import CONFIG, PlainZett
from tokenizers_mm.text import BatchMerges, Hypernetwork, Retrofit, SubwordBase
from tokenizers_mm.text.convert import CONVERTERS
from tokenizers_mm.text.convert.hypernetwork import options_of
from tokenizers_mm.text.embedders import MeanOfParts, parts_of
from tokenizers_mm.text.surface import HypernetworkEmbedder, SurfaceForms, load_hypernetwork

TINY = {"dim": 12, "vocabulary_size": 20, "hidden": 16, "intermediate": 24, "layers": 2, "heads": 4, "positions": 8}
XLMR = {"dim": 768, "vocabulary_size": 250_002, "hidden": 768, "intermediate": 1536, "heads": 12, "tied": True}


@pytest.fixture(scope="module")
def base() -> SubwordBase:
    return SubwordBase("bpe-small")


@pytest.mark.parametrize(("options", "millions"), [(XLMR, 20.5), ({}, 673.5)])
def test_published_sizes(options: dict, millions: float) -> None:
    with torch.device("meta"):
        network = Hypernetwork(**options)
    assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(millions, abs=0.05)


@pytest.mark.parametrize(
    "options", [{}, {"separate_out_embeddings": True}, {"hn_embed_lang_id": True, "n_langs": 3}], ids=str
)
def test_published_weights_give_what_they_gave(options: dict, tmp_path) -> None:
    config = {**CONFIG, **options}
    plain = PlainZett(config)
    for parameter in plain.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    save_file(plain.state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(config))
    folder = CONVERTERS["hypernetwork"](tmp_path / "model.safetensors", tmp_path / "ours")
    network = Hypernetwork.from_pretrained(folder)
    forms = torch.tensor([[5, 1, 1, 1, 1], [3, 19, 22, 7, 1], [20, 21, 22, 2, 3]])  # extra ones from 20 on, padding 1
    source = torch.randn(25, 12 * (1 + plain.untied))
    language = None if not network.languages else torch.full((3,), 2)
    with torch.no_grad():
        wanted = plain(forms, source, None if language is None else 2)
        found = network(forms, forms != 1, source, language)
    assert plain.untied == (not network.tied)
    for a, b in zip(found, wanted, strict=True):
        if b is not None:
            torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"hn_single_head": True}, "hn_single_head"),
        ({"hn_model_type": "t5"}, "hn_model_type"),
        ({"hn_rescale_embeddings": False}, "hn_rescale_embeddings"),
        ({"hn_n_layers": None}, "hn_n_layers"),
    ],
)
def test_other_variants_are_refused(change: dict, words: str) -> None:
    config = {key: value for key, value in {**CONFIG, **change}.items() if value is not None}
    with pytest.raises(ValueError, match=words):
        options_of(config)


def test_padding_is_never_seen() -> None:
    network = Hypernetwork(**TINY).eval()
    source, mask = torch.randn(20, 24), torch.tensor([[True, True, False, False]])
    with torch.no_grad():
        ones = [network(torch.tensor([[3, 4, a, b]]), mask, source).inputs for a, b in ((0, 0), (3, 19), (21, 7))]
        ones.append(network(torch.tensor([[3, 4]]), mask[:, :2], source).inputs)
    for other in ones[1:]:
        torch.testing.assert_close(other, ones[0], atol=1e-5, rtol=1e-5)


def test_surface_forms_count_what_they_cut_and_see_special_tokens() -> None:
    forms = SurfaceForms(list, 3, {b"</s>": 0})  # a part for each byte; the id of padding is one that exists
    ids, mask = forms([b"ab", b"abc", b"abcd", b"</s>"])
    assert ids.tolist() == [[97, 98, 0], [97, 98, 99], [97, 98, 99], [0, 0, 0]]
    assert mask.sum(dim=1).tolist() == [2, 3, 3, 1]
    assert forms.truncated == 1
    assert forms([])[0].shape == (0, 3)
    with pytest.raises(ValueError, match="at least one part"):
        forms([b""])


@pytest.mark.parametrize("tied", [True, False])
def test_what_comes_out_has_the_scale_of_the_embeddings(tied: bool) -> None:
    network = Hypernetwork(**{**TINY, "vocabulary_size": 500}, tied=tied)
    source = 3 + torch.rand(510, 12 if tied else 24) * torch.linspace(0.1, 5, 12 if tied else 24)
    network.fit_scalers(source)
    ids = torch.arange(500)[:, None]
    with torch.no_grad():
        found = network(ids, ids >= 0, source)
    rows = found.inputs if tied else torch.cat([found.inputs, found.outputs], dim=1)
    torch.testing.assert_close(rows.mean(dim=0), source[:500].mean(dim=0), atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(rows.std(dim=0), source[:500].std(dim=0), atol=1e-3, rtol=1e-3)


def test_from_the_mean_it_starts_as_the_mean(base: SubwordBase) -> None:
    network = Hypernetwork(**{**TINY, "dim": 160, "vocabulary_size": 4096}, tied=True, from_mean=True).eval()
    network.fit_scalers(base.source)
    parts = parts_of(base.pieces)
    tokens = [b" government", b" Regierungen", b"\xe6\x97", b" the"]
    found = HypernetworkEmbedder(network, SurfaceForms(parts), base.inputs, chunk=3)(tokens)
    torch.testing.assert_close(found[0], MeanOfParts(parts, base.inputs)(tokens)[0])
    assert found[1] is found[0]


def test_the_first_phase_teaches_the_identity(base: SubwordBase) -> None:
    network = Hypernetwork(
        160, 4096, hidden=96, intermediate=128, layers=1, heads=4, extra_tokens=0, tied=True, positions=7
    )
    task = Retrofit(base, network, BatchMerges(), identity_tokens=192)
    task.start()
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, betas=(0.9, 0.95), weight_decay=0.01)
    for _ in range(100):
        optimizer.zero_grad()
        task.identity_loss().backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
    tokens = [token for token in base.pieces.tokens if len(token) > 3][:1000]
    forms = SurfaceForms(parts_of(base.pieces))
    found = HypernetworkEmbedder(network.eval(), forms, base.inputs)(tokens)[0]
    real = base.inputs[forms(tokens)[0][:, 0]]
    assert float((found - real).square().sum() / real.square().sum()) < 0.1


def test_bad_arguments() -> None:
    for change, words in (({"heads": 3}, "heads"), ({"positions": 6}, "positions"), ({"dim": 0}, "dim")):
        with pytest.raises(ValueError, match=words):
            Hypernetwork(**{**TINY, **change})
    network = Hypernetwork(**TINY)
    with pytest.raises(ValueError, match="language"):
        network(torch.zeros(1, 1).long(), torch.ones(1, 1).bool(), torch.zeros(20, 24), torch.zeros(1).long())
    with pytest.raises(ValueError, match="outputs"):
        HypernetworkEmbedder(network, SurfaceForms(list), torch.zeros(20, 12))
    with pytest.raises((FileNotFoundError, ValueError)):
        load_hypernetwork("bpe-small")
