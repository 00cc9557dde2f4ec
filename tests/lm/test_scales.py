"""Scales that are predicted at once: no cell sees its own scale, one pass draws each, and rows and files do not know how."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.lm.test_token_lm import SMALL, document, model
from tests.lm.test_vocabulary import STREAMS, item, spec
from tokenizers_mm.lm.compression import LMCoder
from tokenizers_mm.lm.document_model import DocumentModel
from tokenizers_mm.lm.grammar import annotate
from tokenizers_mm.lm.huggingface import AddedTokens
from tokenizers_mm.lm.masked import MaskedTokenLM
from tokenizers_mm.lm.processors import Sampling
from tokenizers_mm.lm.scales import Scales
from tokenizers_mm.lm.token_lm import TokenLM
from tokenizers_mm.lm.vocabulary import Stream, Vocabulary
from tokenizers_mm.tokens import Tokens

GREEDY = Sampling(temperature=0)
ENDS = (1, 5, 14)  # of the scales of "pyramid"
DEPTH = {"dim": 16, "layers": 1, "heads": 2}


def passes(network: TokenLM) -> list[int]:
    """A list that gets the steps of every forward pass with a cache."""
    found: list[int] = []
    network.transformer.register_forward_hook(lambda _, given, __: found.append(given[0].shape[1]))
    return found


def first(tokens: Tokens, steps: int) -> Tokens:
    return Tokens(tokens.ids[:, :steps], tokens.spec)


@given(axes=st.integers(1, 2), counts=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=4))
@settings(max_examples=60, deadline=None)
def test_parents_and_places_are_the_nearest_cells(axes: int, counts: list[tuple[int, int]]) -> None:
    scales = Scales(tuple(grid[:axes] for grid in counts))

    def centres(grid: tuple[int, ...]) -> torch.Tensor:
        along = [(torch.arange(n, dtype=torch.float64) + 0.5) / n for n in grid]
        return torch.stack(torch.meshgrid(*along, indexing="ij"), -1).flatten(0, -2)

    parents = scales.parents.split(scales.counts)
    assert (parents[0] == -1).all()
    start = 0
    for own, coarser, found in zip(scales.sides[1:], scales.sides, parents[1:], strict=False):
        apart = (centres(own)[:, None] - centres(coarser)).norm(dim=-1)
        chosen = apart.gather(1, (found - start)[:, None])[:, 0]
        assert torch.allclose(chosen, apart.min(dim=1).values)
        start += math.prod(coarser)
    finest = torch.tensor(scales.sides[-1], dtype=torch.float64)
    for grid, places in zip(scales.sides, scales.places.split(scales.counts), strict=True):
        assert (((places[:, :axes] + 0.5) / finest - centres(grid)).abs() <= 0.5 / finest + 1e-9).all()
    assert len(scales.places.split(scales.counts)[-1].unique(dim=0)) == scales.counts[-1]


def test_scales_are_squares_where_they_can_be() -> None:
    assert Scales.of((1, 4, 9)).sides == ((1, 1), (2, 2), (3, 3))
    assert Scales.of((1, 2, 4)).sides == ((1,), (2,), (4,))
    assert Stream("a", spec((3,), ("scale",), scales=(1, 6)), "multi-scale", sides=((1, 1), (2, 3))).scales == Scales(
        ((1, 1), (2, 3))
    )


@pytest.mark.parametrize("rope", ["1d", "2d"])
def test_a_cell_changes_predictions_of_finer_scales_alone(rope: str) -> None:
    network, tokens = model("pyramid", classes=2, rope=rope), item(STREAMS["pyramid"], (1, 1), 0)

    def features(codes: torch.Tensor) -> torch.Tensor:
        ids = network.vocabulary.document([("pyramid", replace(tokens, ids=codes))], 1)[None]
        return network.features(ids, annotate(network.vocabulary, ids))[0, 2:]  # from the tag on: before each cell

    before = features(tokens.ids)
    for cell in range(14):
        codes = tokens.ids.clone()
        codes[0, cell] = (codes[0, cell] + 1) % 9
        changed = (features(codes)[:14] - before[:14]).abs().amax(dim=1) > 1e-5
        end = next(end for end in ENDS if cell < end)
        assert not changed[:end].any()
        assert changed[end:].all()  # within a scale all read all


@pytest.mark.parametrize("name", ["pyramid", "deep-pyramid"])
@pytest.mark.parametrize("rope", ["1d", "2d"])
def test_passes_with_a_cache_give_the_features_of_the_whole(name: str, rope: str) -> None:
    network, seen = model(name, "plain", rope=rope), []
    read = network.read
    network.read = lambda hidden, pick: (seen.append(hidden), read(hidden, pick))[1]  # type: ignore[method-assign]
    before = [[("plain", item(STREAMS["plain"], (1, 3), 1)), (name, item(STREAMS[name], (1, 1), 2))], []]
    counts = passes(network)
    written = network.generate(name, before=before, seed=0)
    scales = STREAMS[name].scales
    assert scales is not None
    assert counts[1:] == list(scales.counts[1:])
    for row in range(2):
        ids = network.vocabulary.document([*before[row], (name, written[row])])[None]
        whole = network.features(ids, annotate(network.vocabulary, ids))[0]
        cells = sum(scales.counts)
        expected = whole[len(ids[0]) - 3 - cells : -3]  # before each cell; the last cell, two tags follow
        assert torch.allclose(torch.stack(seen)[:, row], expected, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"rope": "2d", "classes": 3}])
def test_greedy_draws_are_the_best_codes_scale_by_scale(options: dict) -> None:
    network = model("pyramid", **options)
    label = 2 if options else None
    written = network.generate("pyramid", labels=[label] if options else None, sampling=GREEDY)
    tokens, codes = Tokens(torch.zeros(1, 14, 1, dtype=torch.int64), written.spec), network.vocabulary.codes("pyramid")
    start = len(network.vocabulary.opening())
    for begin, end in zip((0, *ENDS), ENDS, strict=False):
        ids = network.vocabulary.document([("pyramid", tokens)], label)[None]
        features = network.features(ids, annotate(network.vocabulary, ids))[0, start : start + 14]
        best = (features @ network.head.weight[codes.start : codes.stop].T).argmax(dim=1)
        tokens.ids[0, begin:end, 0] = best[begin:end]
    assert tokens.ids.equal(written.ids)


def test_rows_of_any_phase_are_what_they_are_alone() -> None:
    network = model("pyramid", "plain", classes=3, rope="2d")
    whole = item(STREAMS["pyramid"], (1, 1), 0)
    prompts = Tokens.cat([first(whole, n) for n in (5, 1, 14, 5)])
    orders = {
        "labels": [0, 1, None, 2],
        "before": [[("plain", item(STREAMS["plain"], (1, n), n))] * (n % 3) for n in range(1, 5)],
    }
    options = {"seed": 3, "sampling": Sampling(guidance=2.0)}
    together = network.generate("pyramid", prompts, **orders, **options)
    for i, prompt in enumerate(prompts):
        alone = {key: [given[i]] for key, given in orders.items()}
        assert together[i] == network.generate("pyramid", prompt, **alone, **{**options, "seed": 3 + i})
        assert together.ids[i, : prompt.ids.shape[1]].equal(prompt.ids[0])
    documents = network.compose([0, 1, 2], seed=5, max_steps=60)
    assert documents == [network.compose([i], seed=5 + i, max_steps=60)[0] for i in range(3)]
    assert {name for parts in documents for name, _ in parts} == {"pyramid", "plain"}


def test_first_scales_alone_take_their_passes_alone() -> None:
    network = model("pyramid")
    counts = passes(network)
    few, whole = network.generate("pyramid", shape=(5,), seed=2), network.generate("pyramid", seed=2)
    assert counts == [2, 4, 2, 4, 9]  # the first reads the document's begin and the tag
    assert few.shapes.tolist() == [[5]]
    assert few.ids.equal(whole.ids[:, :5])
    assert network.generate("pyramid", seed=2, max_steps=9) == few  # what is cut ends with its last whole scale
    assert torch.allclose(network.score(few, "pyramid"), network.score(whole, "pyramid")[:, :5], atol=1e-5)
    for wrong in ({"prompt": first(whole, 4)}, {"shape": (6,)}):
        with pytest.raises(ValueError, match="must have grids"):
            network.generate("pyramid", **wrong)
    with pytest.raises(ValueError, match="breaks off"):
        TokenLM([STREAMS["deep-pyramid"].to_dict()], **SMALL).generate("deep-pyramid", max_steps=1)  # type: ignore[arg-type]


def test_nothing_follows_an_item_that_breaks_off() -> None:
    network = model("pyramid", "plain")
    few = ("pyramid", first(item(STREAMS["pyramid"], (1, 1), 0), 5))
    plain = ("plain", item(STREAMS["plain"], (1, 3), 1))
    ids = network.vocabulary.document([plain, few])
    assert network.vocabulary.segments(ids) == [plain, few]
    row = torch.cat([ids, network.vocabulary.document([plain])])[None]
    assert torch.allclose(network.token_nll(row)[0, : len(ids)], network.token_nll(ids[None])[0], atol=1e-5)
    with pytest.raises(ValueError, match="nothing may follow a pyramid of 5 steps"):
        network.vocabulary.document([few, plain])
    with pytest.raises(ValueError, match="nothing may follow"):
        network.generate("plain", before=[[few]])


def test_neighbours_in_a_row_change_nothing() -> None:
    network = model("pyramid", "plain", rope="2d")
    documents = [document(network, "plain", "pyramid", "plain", seed=1), document(network, "pyramid", seed=2)]
    alone = torch.cat([network.token_nll(ids[None])[0] for ids in documents])
    assert torch.allclose(network.token_nll(torch.cat(documents)[None])[0], alone, atol=1e-5)


def test_streams_without_scales_are_computed_as_ever() -> None:
    network = model("image", "delayed")
    ids = document(network, "image", "delayed")[None]
    about = annotate(network.vocabulary, ids)
    assert about.source is None
    assert about.group is None
    alone = torch.arange(ids.shape[1])[None]
    grouped = network.features(ids, replace(about, source=alone, group=alone))
    assert torch.equal(network.features(ids, about), grouped)


@pytest.mark.parametrize("depth", [None, DEPTH])
def test_files_come_back(depth: dict | None, tmp_path: Path) -> None:
    name = "pyramid" if depth is None else "deep-pyramid"
    network = model(name, "plain", depth=depth)
    network.save_pretrained(tmp_path)
    tokens = Tokens.cat(
        [item(STREAMS[name], (1, 1), n) for n in range(3)] + [first(item(STREAMS[name], (1, 1), 4), 2 if depth else 5)]
    )
    coder = LMCoder.load(tmp_path)
    data = coder.encode(tokens)
    assert torch.from_numpy(coder.decode(data, tokens.spec, tokens.shapes.numpy())).equal(tokens.ids)
    assert abs(8 * len(data) - coder.ideal_bits(tokens)) < 64
    nats = float(DocumentModel(network).nll(tokens).sum())
    assert coder.ideal_bits(tokens) == pytest.approx(nats / math.log(2), rel=1e-3)


def test_codes_of_a_step_are_told_one_after_the_other() -> None:
    network = model("deep-pyramid", depth=DEPTH)
    written = network.generate("deep-pyramid", count=2, sampling=GREEDY)
    assert written[0] == written[1]
    ids = network.vocabulary.document([("deep-pyramid", written[0])])[None]
    for choice, cells, logits in network.predictions(ids, annotate(network.vocabulary, ids)):
        if len(choice.codes):
            drawn = choice.place(ids[tuple(cells.T)])
            assert (logits.gather(1, drawn[:, None])[:, 0] >= logits.max(dim=1).values - 1e-4).all()


def test_a_scale_that_copies_the_one_before_costs_nothing() -> None:
    torch.manual_seed(0)
    stream = Stream("copies", spec((8,), ("scale",), scales=(1, 4, 16)), "multi-scale")
    network = TokenLM([stream.to_dict()], rope="2d", **SMALL)  # type: ignore[arg-type]
    optimizer, generator = torch.optim.Adam(network.parameters(), 1e-2), torch.Generator().manual_seed(0)

    def items() -> Tokens:
        """The second scale is random, the third its copy; the first says nothing."""
        codes = torch.randint(8, (16, 21), generator=generator)
        codes[:, 5:] = codes[:, 1:5].view(16, 2, 2).repeat_interleave(2, 1).repeat_interleave(2, 2).flatten(1)
        return Tokens(codes[..., None], stream.spec)

    for _ in range(60):
        optimizer.zero_grad()
        network.loss(torch.stack([network.vocabulary.document([("copies", one)]) for one in items()])).backward()
        optimizer.step()
    nats = network.eval().score(items(), "copies")[..., 0].mean(dim=0)
    assert nats[:5].mean() > 0.9 * math.log(8)
    assert nats[5:].mean() < 0.02


def test_scales_survive_json() -> None:
    stream = Stream("a", spec((3,), ("scale",), scales=(1, 6, 8)), "multi-scale", (7,), sides=((1, 1), (2, 3), (2, 4)))
    assert Stream.from_dict(json.loads(json.dumps(stream.to_dict()))) == stream
    assert stream.scales == Scales(((1, 1), (2, 3)))
    assert "sides" not in STREAMS["pyramid"].to_dict()


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        ({"grid": (4,)}, "grid must hold"),
        ({"grid": (None,)}, "grid must hold"),
        ({"sides": ((1, 1), (2, 2))}, "sides must be those"),
        ({"sides": ((1, 1), (1, 4), (3, 4))}, "sides must be those"),
        ({"sides": ((1,), (2, 2), (3, 3))}, "one axis or two"),
        ({"pattern": "flatten", "sides": ((1, 1), (2, 2), (3, 3))}, "sides must be those"),
    ],
)
def test_scales_that_do_not_fit_are_refused(wrong: dict, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        replace(STREAMS["pyramid"], **wrong)


def test_models_that_draw_otherwise_refuse_scales() -> None:
    with pytest.raises(ValueError, match="must not have pattern 'multi-scale'"):
        MaskedTokenLM(STREAMS["pyramid"].to_dict())
    with pytest.raises(ValueError, match="come one by one"):
        AddedTokens(None, Vocabulary([STREAMS["pyramid"]]))  # type: ignore[arg-type]
