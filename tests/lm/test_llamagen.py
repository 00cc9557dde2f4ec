"""LlamaGen's models: published sizes and keys, an independent reading of the block, conditions, guidance, grids."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tokenizers_mm import registry
from tokenizers_mm.lm.llamagen import SIZES, LlamaGen
from tokenizers_mm.lm.processors import Sampling, guide

TINY = {"vocabulary_size": 40, "dim": 32, "layers": 2, "heads": 2, "grid": (3, 5)}
D, HEADS, HIDDEN, V, PREFIX = 32, 2, 256, 40, 6


def lively(model: LlamaGen) -> LlamaGen:
    torch.manual_seed(0)
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.2)
    return model.eval()


def published(captions: bool) -> dict[str, Tensor]:
    """A state dict as the authors' code writes it."""
    torch.manual_seed(1)
    shapes = {"tok_embeddings.weight": (V, D), "norm.weight": (D,), "output.weight": (V, D)}
    for i in range(2):
        shapes |= {
            f"layers.{i}.attention.wqkv.weight": (3 * D, D), f"layers.{i}.attention.wo.weight": (D, D),
            f"layers.{i}.feed_forward.w1.weight": (HIDDEN, D), f"layers.{i}.feed_forward.w2.weight": (D, HIDDEN),
            f"layers.{i}.feed_forward.w3.weight": (HIDDEN, D), f"layers.{i}.attention_norm.weight": (D,),
            f"layers.{i}.ffn_norm.weight": (D,),
        }  # fmt: skip
    if captions:
        shapes |= {
            "cls_embedding.cap_proj.fc1.weight": (D, 24), "cls_embedding.cap_proj.fc2.weight": (D, D),
            "cls_embedding.uncond_embedding": (PREFIX, 24),
        }  # fmt: skip
    else:
        shapes["cls_embedding.embedding_table.weight"] = (11, D)
    return {name: torch.randn(shape) * 0.2 + (len(shape) == 1) for name, shape in shapes.items()}


def reference(w: dict[str, Tensor], prefix: Tensor, ids: Tensor, valid: Tensor, rows: int, columns: int) -> Tensor:
    """One sequence's logits by loops over heads and pairs, as the paper's code has it."""
    p, width = len(prefix), D // HEADS
    x = torch.cat([prefix, w["tok_embeddings.weight"][ids]])
    places = [divmod(i, columns) for i in range(rows * columns)]
    turns = torch.zeros(len(x), width // 2, dtype=torch.complex64)  # the condition's stay zero
    for i in range(len(ids)):
        for j in range(width // 4):
            f = 10000 ** (-2 * j / (width // 2))
            turns[p + i, j] = complex(math.cos(places[i][0] * f), math.sin(places[i][0] * f))
            turns[p + i, width // 4 + j] = complex(math.cos(places[i][1] * f), math.sin(places[i][1] * f))
    real = torch.cat([valid, torch.ones(len(ids), dtype=torch.bool)])
    sees = torch.ones(len(x), len(x), dtype=torch.bool).tril() & real
    sees |= torch.eye(len(x), dtype=torch.bool)

    def norm(y: Tensor, weight: Tensor) -> Tensor:
        return y / (y.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * weight

    for layer in range(2):
        part = {k.removeprefix(f"layers.{layer}."): v for k, v in w.items()}
        q, k, v = (norm(x, part["attention_norm.weight"]) @ part["attention.wqkv.weight"].T).split(D, dim=-1)
        heads = []
        for h in range(HEADS):
            at = slice(h * width, (h + 1) * width)
            turned = [
                torch.view_as_real(torch.complex(y[:, at][:, 0::2], y[:, at][:, 1::2]) * turns).flatten(1)
                for y in (q, k)
            ]
            scores = (turned[0] @ turned[1].T / width**0.5).masked_fill(~sees, -torch.inf)
            heads.append(scores.softmax(-1) @ v[:, at])
        x = x + torch.cat(heads, dim=-1) @ part["attention.wo.weight"].T
        y = norm(x, part["ffn_norm.weight"])
        gate = y @ part["feed_forward.w1.weight"].T
        x = x + (gate * gate.sigmoid() * (y @ part["feed_forward.w3.weight"].T)) @ part["feed_forward.w2.weight"].T
    return (norm(x, w["norm.weight"]) @ w["output.weight"].T)[p - 1 :]


@pytest.mark.parametrize("captions", [False, True])
def test_published_keys_give_the_published_computation(captions: bool, tmp_path: Path) -> None:
    weights = published(captions)
    save_file(weights, tmp_path / "published.safetensors")
    (tmp_path / "config.json").write_text('{"grid": [3, 5], "heads": 2}')
    convert = registry.converter("llamagen-lm")
    folder = convert(tmp_path / "published.safetensors", tmp_path / "ours", config=tmp_path / "config.json")
    model = LlamaGen.from_pretrained(folder)
    ids, valid = torch.randint(V, (15,)), torch.tensor([False, False, True, True, True, True])
    if captions:
        features = torch.randn(PREFIX, 24)
        hidden = torch.nn.functional.gelu(features @ weights["cls_embedding.cap_proj.fc1.weight"].T, approximate="tanh")
        prefix, condition = hidden @ weights["cls_embedding.cap_proj.fc2.weight"].T, features[None]
    else:
        prefix, condition = weights["cls_embedding.embedding_table.weight"][[7]], torch.tensor([7])
        valid = valid[-1:]
    expected = reference(weights, prefix, ids[:-1], valid, 3, 5)
    with torch.no_grad():
        found = model(ids[None], condition, valid[None])[0]
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
        hidden, cache = model.prefill(condition[:, None, None] if not captions else condition, valid[None], 30)
        for t in range(15):
            torch.testing.assert_close(model.head(hidden)[0], found[t], atol=1e-4, rtol=1e-4)
            hidden = model.advance(ids[None, t : t + 1], cache)
    del weights["norm.weight"]
    save_file(weights, tmp_path / "partial.safetensors")
    with pytest.raises(ValueError, match=r"1 missing keys: transformer\.norm\.weight"):
        convert(tmp_path / "partial.safetensors", tmp_path / "no", config=tmp_path / "config.json")


@pytest.mark.parametrize(
    ("size", "millions"), [("B", 110.888), ("L", 342.911), ("XL", 774.700), ("XXL", 1410.973), ("3B", 3096.659)]
)
def test_sizes_have_the_published_parameters(size: str, millions: float) -> None:
    with torch.device("meta"):
        model = LlamaGen(**SIZES[size])
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 3) == millions


def test_the_first_loss_is_that_of_knowing_nothing() -> None:
    model = LlamaGen(**TINY, classes=10)
    loss = model.loss(torch.randint(V, (4, 15)), torch.arange(4))
    assert loss.item() == pytest.approx(math.log(V), abs=1e-6)
    weighted = lively(model).loss(torch.randint(V, (2, 15)), torch.arange(2), weights=torch.tensor([1.0, 0.0]))
    assert weighted.isfinite()


@pytest.mark.parametrize("captions", [False, True])
def test_conditions_are_left_out_as_often_as_said(captions: bool) -> None:
    model = LlamaGen(
        **TINY, **({"classes": None, "caption_dim": 8, "caption_steps": 4} if captions else {"classes": 10})
    )
    given = torch.randn(4000, 4, 8) if captions else torch.randint(10, (4000,))
    left_out = (
        (model._forget(given) == model.null(4000)).flatten(1).all(dim=1) if captions else model._forget(given) == 10
    )
    assert 0.08 < float(left_out.float().mean()) < 0.12
    lively(model)
    ids = torch.randint(V, (2, 15))
    assert torch.equal(model(ids, given[:2]), model(ids, given[:2]))  # never in evaluation


def test_samples_are_guided_against_no_condition() -> None:
    model = lively(LlamaGen(**TINY, classes=10))
    labels = torch.tensor([3, 8])
    found = model.sample(labels, Sampling(0.0, guidance=3.0))
    ids = torch.zeros(2, 1).long()
    for t in range(15):
        c, u = (model(ids, side)[:, t] for side in (labels, model.null(2)))
        ids[:, t] = guide(c, u, 3.0).argmax(dim=-1)
        ids = torch.cat([ids, ids[:, :1]], dim=1) if t < 14 else ids
    assert torch.equal(found, ids)
    plain = model.sample(labels, Sampling(0.0))
    assert not torch.equal(found, plain)


def test_rows_may_stand_at_different_places_of_their_grids() -> None:
    model, labels, ids = lively(LlamaGen(**TINY, classes=10)), torch.tensor([3, 8]), torch.randint(V, (2, 15))
    _, cache = model.prefill(labels[:, None, None], None, 30)
    for t in range(8):
        model.advance(ids[:, t : t + 1], cache)
    cache.rollback(torch.tensor([0, 5]))  # 8 codes of the first image, 3 of the second
    hidden = model.advance(torch.stack([ids[0, 8:9], ids[1, 3:4]]), cache)
    expected = model(ids, labels)
    torch.testing.assert_close(model.head(hidden), torch.stack([expected[0, 9], expected[1, 4]]), atol=1e-4, rtol=1e-4)


def test_captions_may_be_short() -> None:
    """Padding on the left is as if it weren't there, in samples too."""
    model = lively(LlamaGen(**TINY, classes=None, caption_dim=8, caption_steps=4))
    features, valid = torch.randn(2, 4, 8), torch.tensor([[True] * 4, [False, False, True, True]])
    other = features.clone()
    other[1, :2] = 5.0
    sampled = [
        model.sample(each, Sampling(guidance=2.0), valid=valid, generators=torch.Generator().manual_seed(0))
        for each in (features, other)
    ]
    assert torch.equal(*sampled)


def test_impossible_requests_are_refused() -> None:
    with pytest.raises(ValueError, match="either classes or caption_dim"):
        LlamaGen(classes=None)
    with pytest.raises(ValueError, match="at most 3 x 5"):
        LlamaGen(**TINY, classes=10)(torch.zeros(1, 16).long(), torch.tensor([1]))
