"""A decoder over any codecs' tokens: causal, blind to padding and neighbours, and told nothing that the format says anyway."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.lm.test_vocabulary import STREAMS, item
from tokenizers_mm.lm.grammar import annotate
from tokenizers_mm.lm.token_lm import TokenLM
from tokenizers_mm.lm.vocabulary import BOS, FORCED, PAD
from tokenizers_mm.tokens import Tokens
from tokenizers_mm.weights import read_weights

SMALL = {"dim": 32, "layers": 2, "heads": 2}


def model(*names: str, seed: int = 0, **options: object) -> TokenLM:
    torch.manual_seed(seed)
    network = TokenLM([STREAMS[name].to_dict() for name in names], **{**SMALL, **options})  # type: ignore[arg-type]
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return network.eval()


def document(network: TokenLM, *names: str, seed: int = 0, label: int | None = None) -> torch.Tensor:
    return network.vocabulary.document(
        [(name, item(STREAMS[name], (4, 7), seed + i)) for i, name in enumerate(names)], label
    )


@pytest.mark.parametrize("name", sorted(STREAMS))
def test_losses_are_those_of_a_softmax_over_what_may_stand_there(name: str) -> None:
    network = model(name)
    ids = document(network, name, name)[None]
    about = annotate(network.vocabulary, ids)
    logits = network.features(ids, about) @ network.head.weight.T
    expected = torch.zeros(ids.shape)
    for step in range(1, ids.shape[1]):
        for lane in range(ids.shape[2]):
            if (kind := int(about.kinds[0, step, lane])) == FORCED:
                continue
            allowed = network.vocabulary.choices[kind].ids
            p = logits[0, step - 1, allowed].softmax(dim=0)
            expected[0, step, lane] = -p[allowed == ids[0, step, lane]].log()
    found = network.token_nll(ids)
    assert torch.allclose(found, expected, atol=1e-5)
    told = about.kinds[:, 1:] != FORCED
    assert torch.allclose(network.loss(ids), found[:, 1:][told].mean())


@pytest.mark.parametrize("rope", ["1d", "2d"])
def test_padding_and_neighbours_change_nothing(rope: str) -> None:
    network = model("image", "delayed", rope=rope)
    one, two = document(network, "image", seed=1), document(network, "delayed", "image", seed=2)
    pad = torch.full((3, network.vocabulary.lanes), PAD)
    alone = [network.token_nll(each[None])[0] for each in (one, two)]
    packed = network.token_nll(torch.cat([one, two])[None])[0]
    padded = network.token_nll(torch.cat([pad, two, pad])[None])[0]
    assert torch.allclose(packed, torch.cat(alone), atol=1e-5)
    assert torch.allclose(padded[3:-3], alone[1], atol=1e-5)


def test_a_code_changes_nothing_before_it_nor_in_its_own_step() -> None:
    network = model("delayed")
    ids = document(network, "delayed")
    before = network.token_nll(ids[None])[0]
    changed = ids.clone()
    inside = network.vocabulary.codes("delayed", 1)
    changed[5, 1] = inside.start + (ids[5, 1] - inside.start + 1) % len(inside)
    after = network.token_nll(changed[None])[0]
    same = torch.ones_like(before, dtype=torch.bool)
    same[5, 1], same[6:] = False, False
    assert torch.equal(before[same], after[same])
    assert not torch.allclose(before[6:8], after[6:8])


def test_scores_stand_where_the_codes_do() -> None:
    network = model("eeg", "plain")
    tokens = Tokens.cat([item(STREAMS["eeg"], (0, n), n) for n in (5, 3)])
    scores = network.score(tokens, "eeg")
    assert scores.shape == tokens.ids.shape
    assert (scores[1, 9:] == 0).all()
    ids = network.vocabulary.document([("eeg", tokens[1])])
    plan = network.vocabulary.plan("eeg", (3, 3))
    nats = network.token_nll(ids[None])[0][1 + plan.step, plan.lane]  # [time, channel * codebook]
    assert torch.allclose(scores[1, :9].view(3, 3, 2), nats.view(3, 3, 2).transpose(0, 1), atol=1e-6)


def test_an_untied_head_starts_at_a_uniform_guess() -> None:
    torch.manual_seed(0)
    network = TokenLM([STREAMS["image"].to_dict()], tied=False, **SMALL)  # type: ignore[arg-type]
    nats = network.token_nll(document(network, "image")[None])
    assert torch.allclose(nats[0, 2:14, 0], torch.tensor(math.log(9)), atol=1e-6)


def test_codes_of_a_scalar_quantizer_start_as_sums_over_their_digits() -> None:
    torch.manual_seed(0)
    network = TokenLM([STREAMS["image"].to_dict()], levels={"image": (3, 3)}, **SMALL)  # type: ignore[arg-type]
    codes = network.vocabulary.codes("image")
    rows = network.head.weight[codes.start : codes.stop].view(3, 3, -1)  # second digit, first digit
    assert torch.allclose(rows[1:] - rows[:-1], (rows[1:, :1] - rows[:-1, :1]).expand(-1, 3, -1), atol=1e-6)
    assert not torch.allclose(rows[1] - rows[0], torch.zeros(()))
    with pytest.raises(ValueError, match="must multiply to its 9 codes"):
        TokenLM([STREAMS["image"].to_dict()], levels={"image": (3, 4)}, **SMALL)  # type: ignore[arg-type]


def test_labels_are_left_out_as_often_as_said() -> None:
    network = model("fixed", classes=3, label_dropout=0.25)
    ids = torch.stack([document(network, "fixed", label=1)] * 4000)
    kept = network._without_some_labels(ids)[:, 1, 0] == network.vocabulary.label(1)
    assert abs(float((~kept).float().mean()) - 0.25) < 4 * (0.25 * 0.75 / 4000) ** 0.5
    assert ids[:, 0, 0].eq(BOS).all()


def test_weights_choose_what_counts() -> None:
    network = model("plain")
    ids = document(network, "plain")[None]
    weights = torch.zeros(ids.shape)
    weights[0, 4] = 2.0
    assert torch.allclose(network.loss(ids, weights), network.token_nll(ids)[0, 4, 0])
    with pytest.raises(ValueError, match="something to tell"):
        network.loss(ids, torch.zeros(ids.shape))


def test_a_model_survives_its_folder(tmp_path: Path) -> None:
    network = model("image", "delayed", classes=2)
    network.save_pretrained(tmp_path)
    again = TokenLM.from_pretrained(tmp_path)
    ids = document(network, "image", "delayed", label=1)[None]
    assert torch.equal(network.token_nll(ids), again.token_nll(ids))


def test_a_tied_output_layer_is_stored_once(tmp_path: Path) -> None:
    network = model("image")
    network.save_pretrained(tmp_path, dtype=torch.float16)
    stored = read_weights(tmp_path / "model.safetensors")
    assert "embedding.weight" in stored
    assert "head.weight" not in stored
    again = TokenLM.from_pretrained(tmp_path)
    assert again.head.weight is again.embedding.weight
    assert torch.equal(again.head.weight, network.head.weight.half().float())
    save_file({**stored, "head.weight": stored["embedding.weight"].clone()}, tmp_path / "model.safetensors")
    assert torch.equal(TokenLM.from_pretrained(tmp_path).head.weight, again.head.weight)
    del stored["embedding.weight"]
    save_file(stored, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="2 missing keys"):
        TokenLM.from_pretrained(tmp_path)


def test_it_learns_what_a_pattern_allows_it_to_see() -> None:
    """The second codebook copies the first: known where codes come one after the other, unknowable where they come at once."""
    nats = {}
    for name in ("residual", "parallel", "depth"):
        torch.manual_seed(0)
        inner = {"dim": 32, "layers": 1, "heads": 2} if name == "depth" else None
        name, key = ("parallel", "depth") if inner else (name, name)
        network = TokenLM([STREAMS[name].to_dict()], depth=inner, **SMALL)  # type: ignore[arg-type]
        optimizer = torch.optim.Adam(network.parameters(), 1e-2)
        generator = torch.Generator().manual_seed(0)
        for _ in range(60):
            codes = torch.randint(5, (8, 6, 1), generator=generator).expand(-1, -1, 3)
            batch = [network.vocabulary.document([(name, Tokens(row[None], STREAMS[name].spec))]) for row in codes]
            optimizer.zero_grad()
            network.loss(torch.stack(batch)).backward()
            optimizer.step()
        with torch.no_grad():
            nats[key] = float(network.eval().score(Tokens(codes, STREAMS[name].spec), name)[..., 1].mean())
    assert nats["residual"] < 0.1
    assert nats["depth"] < 0.1
    assert nats["parallel"] > 0.9 * math.log(5)


def test_documents_of_unknown_tokens_are_refused() -> None:
    network = model("plain")
    with pytest.raises(ValueError, match="stream must be one of plain"):
        network.score(item(STREAMS["image"], (1, 1), 0), "image")
