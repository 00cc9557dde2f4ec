"""What a model writes: whole items, what is given kept, rows that do not know of each other, draws of the full forward pass."""

from __future__ import annotations

import pytest
import torch

from tests.lm.test_token_lm import model
from tests.lm.test_vocabulary import STREAMS, item
from tokenizers_mm.lm.grammar import annotate
from tokenizers_mm.lm.processors import Sampling
from tokenizers_mm.lm.vocabulary import FORCED
from tokenizers_mm.tokens import Tokens

GREEDY = Sampling(temperature=0)
SHAPES = {"pictures": (3, 4), "eeg": (3, 6), "eeg-delayed": (2, 6)}


def shape_of(name: str) -> tuple[int, ...] | None:
    return None if STREAMS[name].closed else SHAPES.get(name, (6,))


@pytest.mark.parametrize("rope", ["1d", "2d"])
@pytest.mark.parametrize("name", sorted(STREAMS))
def test_cached_steps_draw_what_the_whole_pass_finds_likeliest(name: str, rope: str) -> None:
    network = model(name, rope=rope)
    written = network.generate(name, shape=shape_of(name), sampling=GREEDY)
    ids = network.vocabulary.document([(name, written)])[None]
    about = annotate(network.vocabulary, ids)
    logits = (network.features(ids, about) @ network.head.weight.T)[0].detach()
    codes = network.vocabulary.codes(name)
    for step, lane in (about.kinds[0] != FORCED).nonzero().tolist():
        allowed = network.vocabulary.choices[int(about.kinds[0, step, lane])].codes
        if len(allowed) and int(ids[0, step, lane]) in codes:
            best = logits[step - 1, allowed.start : allowed.stop]
            assert best[ids[0, step, lane] - allowed.start] >= best.max() - 1e-4


def test_inner_steps_draw_what_the_whole_pass_finds_likeliest() -> None:
    network = model("parallel", "plain", depth={"dim": 16, "layers": 2, "heads": 2})
    written = network.generate("parallel", count=2, sampling=GREEDY, shape=(6,))
    assert written[0] == written[1]
    ids = network.vocabulary.document([("parallel", written[0])])[None]
    for choice, cells, logits in network.predictions(ids, annotate(network.vocabulary, ids)):
        if len(choice.codes):
            codes = ids[tuple(cells.T)]
            drawn = choice.place(codes)
            inside = drawn >= len(choice.marks)
            best = logits[:, len(choice.marks) :].max(dim=1).values
            assert (logits.gather(1, drawn[:, None])[:, 0] >= best - 1e-4)[inside].all()


@pytest.mark.parametrize("name", ["plain", "delayed", "eeg", "residual-image"])
def test_prompts_stay_and_rows_do_not_depend_on_each_other(name: str) -> None:
    network = model(name)
    whole = Tokens.cat([item(STREAMS[name], (3, 9), n) for n in range(3)])
    prompts = [
        one.grid(0)[:2] if name == "residual-image" else one.grid(0)[..., : 2 + i, :] for i, one in enumerate(whole)
    ]
    given = [Tokens(p.reshape(1, -1, p.shape[-1]), whole.spec, torch.tensor([p.shape[:-1]])) for p in prompts]
    shape = (3, 4) if name == "residual-image" else (3, 9) if name == "eeg" else (9,)
    together = network.generate(name, Tokens.cat(given), shape=shape, seed=5)
    for i, prompt in enumerate(given):
        alone = network.generate(name, prompt, shape=shape, seed=5 + i)
        assert together[i] == alone
        kept = together[i].grid(0)[tuple(slice(n) for n in prompts[i].shape[:-1])]
        assert kept.equal(prompts[i])


def test_the_model_ends_items_by_itself_and_at_the_limit() -> None:
    network = model("plain")
    found = network.generate("plain", count=20, seed=0, max_steps=60)
    assert found.lengths.min() < 60
    assert len(found.lengths.unique()) > 3
    cut = network.generate("plain", count=4, shape=(50,), max_steps=10, seed=0)
    assert cut.lengths.tolist() == [10] * 4


def test_guidance_of_one_is_none_and_more_changes_the_draw() -> None:
    network = model("image", classes=3)
    plain = network.generate("image", labels=[0, 1], sampling=GREEDY)
    assert network.generate("image", labels=[0, 1], sampling=Sampling(0, guidance=(1.0, 1.0, 1.0))) == plain
    assert network.generate("image", labels=[0, 1], sampling=Sampling(0, guidance=8.0)) != plain
    unlabelled = network.generate("image", count=2, sampling=GREEDY)
    assert network.generate("image", labels=[0, 1], sampling=Sampling(0, guidance=0.0)) == unlabelled


def test_what_stands_before_matters() -> None:
    network = model("plain", "image")
    parts = [[("plain", item(STREAMS["plain"], (1, 5), n))] for n in range(8)]
    found = network.generate("image", before=parts, sampling=GREEDY)
    assert any(found[0] != other for other in found)
    assert network.generate("image", before=parts[7:], sampling=GREEDY) == found[7]


def test_whole_documents_are_made_of_items() -> None:
    network = model("fixed", "image")
    documents = network.compose(count=6, seed=1, max_steps=100)
    assert {name for parts in documents for name, _ in parts} <= {"fixed", "image"}
    assert all(name != "image" or part.shapes.tolist() == [[3, 4]] for parts in documents for name, part in parts)


@pytest.mark.parametrize("name", ["plain", "delayed"])
def test_frames_come_as_they_are_written(name: str) -> None:
    network, pieces = model(name), []
    whole = network.generate(name, shape=(9,), seed=3, on_tokens=pieces.append)
    assert len(pieces) == 9
    assert torch.cat([piece.ids for piece in pieces], dim=1).equal(whole.ids)
    with pytest.raises(ValueError, match="goes on in time"):
        model("image").generate("image", on_tokens=pieces.append)


def test_side_information_comes_from_the_prompt() -> None:
    network = model("plain")
    prompt = item(STREAMS["plain"], (1, 3), 0)
    prompt = Tokens(
        prompt.ids, prompt.spec, prompt.shapes, {"scale": torch.tensor([[2.5]]), "size": torch.tensor([[3]])}
    )
    found = network.generate("plain", prompt, shape=(5,), seed=0)
    assert found.side.keys() == {"scale"}


def test_broken_models_and_orders_are_told() -> None:
    network = model("fixed", "plain")
    with pytest.raises(ValueError, match="as many items"):
        network.generate("plain", item(STREAMS["plain"], (1, 3), 0), before=[[], []])
    with pytest.raises(ValueError, match="prompt must be the beginning"):
        network.generate("plain", item(STREAMS["plain"], (1, 9), 0), shape=(4,))
    with pytest.raises(ValueError, match="prompt must be one item of"):
        network.generate("plain", item(STREAMS["delayed"], (1, 9), 0))
    with pytest.raises(ValueError, match="breaks off"):
        network.generate("fixed", max_steps=2)
    with pytest.raises(ValueError, match="must have grids"):
        network.generate("fixed", shape=(2, 7))
    with pytest.raises(ValueError, match="max_steps"):
        network.generate("fixed", max_steps=0)
    with pytest.raises(ValueError, match="label must be None"):
        network.generate("fixed", labels=[1])
    torch.nn.init.constant_(network.head.weight, torch.nan)
    with pytest.raises(ValueError, match="not numbers"):
        network.generate("fixed")
