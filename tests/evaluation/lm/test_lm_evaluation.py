"""Language models of tokens, measured: bits as they are, draws as the model says, reports that hold what they show."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon

from tests.evaluation.toy_codecs import Coarse
from tokenizers_mm import registry
from tokenizers_mm.audio.metrics import METRICS, Pair
from tokenizers_mm.cli import main
from tokenizers_mm.evaluation.lm.page import write_page
from tokenizers_mm.evaluation.lm.plan import LMPlan, load_plan
from tokenizers_mm.evaluation.lm.run import evaluate_lms
from tokenizers_mm.evaluation.lm.samples import compare, divergence, draw
from tokenizers_mm.evaluation.lm.scores import measure_bits, measure_files
from tokenizers_mm.evaluation.lm.sources import batches, extent, fingerprint, read
from tokenizers_mm.evaluation.suite import load_suite
from tokenizers_mm.lm.ngram import TokenNGram
from tokenizers_mm.lm.token_lm import TokenLM
from tokenizers_mm.scale.shards import Item, Origin, ShardWriter
from tokenizers_mm.tokens import Tokens, TokenSpec

CODEC = Coarse(hop=400)


def clip(seed: int, steps: int = 20) -> Tokens:
    """Ids that walk up and down near the middle, with the size that a codec gives."""
    generator = torch.Generator().manual_seed(seed)
    walk = (128 + torch.randint(-2, 3, (steps,), generator=generator).cumsum(0)).clamp(110, 146)
    return Tokens(walk[None, :, None], CODEC.spec, side={"size": torch.tensor([[400 * steps - 7]])})


CLIPS = [clip(i, 20 + i % 3) for i in range(12)]


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    """A folder with shards to train on and files to test on."""
    with ShardWriter(tmp_path / "train", Origin("toy", CODEC.spec)) as shard:
        for i in range(60):
            shard.write(Item(f"{i}", clip(100 + i, 60)))
    (tmp_path / "test").mkdir()
    for i, item in enumerate(CLIPS):
        item.save(tmp_path / "test" / f"{i:02d}.mmt", codec="toy")
    return tmp_path


def plan(folder: Path, **more: object) -> LMPlan:
    sources = {"toy": {"train": str(folder / "train"), "test": str(folder / "test")}}
    return LMPlan.model_validate(
        {"name": "tiny", "sources": sources, "orders": (1, 2), "samples": 4, "files": 2, **more}
    )


# -- numbers ---------------------------------------------------------------------------------------


def test_bits_are_those_of_the_model() -> None:
    model = TokenNGram.learn(CLIPS[:6], order=2)
    found = measure_bits(model, CLIPS)
    each = [float(model.nll(item).sum()) / math.log(2) for item in CLIPS]
    steps = [int(item.lengths) for item in CLIPS]
    assert found.per_id == pytest.approx(sum(each) / sum(steps))
    assert found.per_column == pytest.approx((found.per_id,))
    assert found.rate_unit == "kbit/s"
    assert found.rate == pytest.approx(sum(each) / sum(400 * n - 7 for n in steps) * 16000 / 1000)
    assert 0 < found.ci95 < found.per_id
    image = TokenSpec("image", (8,), axes=("height", "width"), hop=(4, 4), channels=3)
    picture = Tokens(torch.arange(6)[None, :, None], image, torch.tensor([[2, 3]]))
    found = measure_bits(TokenNGram.learn([picture], order=1), [picture])
    assert found.rate_unit == "bit/pixel"
    assert found.rate == pytest.approx(found.per_id / 16)
    text = Tokens(torch.arange(6)[None, :, None], TokenSpec("text", (8,), axes=("token",)))
    assert measure_bits(TokenNGram.learn([text], order=1), [text]).rate is None


def test_extents_count_seconds_of_each_row_and_samples_without_time() -> None:
    eeg = TokenSpec("eeg", (4,), axes=("channel", "time"), hop=(1, 50), sample_rate=100.0, channels=0)
    rows = Tokens(torch.zeros(1, 6, 1, dtype=torch.long), eeg, torch.tensor([[2, 3]]))
    assert extent(rows) == pytest.approx(2 * 1.5)
    assert extent(replace(rows, side={"size": torch.tensor([[2, 120]])})) == pytest.approx(2 * 1.2)


def test_files_are_real_ones() -> None:
    found = measure_files(TokenNGram.learn(CLIPS, order=3), CLIPS[:3])
    assert found.items == 3
    assert found.ideal_bits_per_id < found.bits_per_id < found.plain_bits_per_id


def test_divergence_is_jensen_and_shannon_s() -> None:
    assert divergence(CLIPS, CLIPS) == 0
    some, others = CLIPS[:4], CLIPS[4:]
    p, q = (np.bincount(np.concatenate([x.ids.flatten() for x in items]), minlength=256) for items in (some, others))
    assert divergence(some, others) == pytest.approx(jensenshannon(p, q, base=2) ** 2)
    assert divergence(others, some) == pytest.approx(divergence(some, others))
    far = [replace(item, ids=item.ids * 0) for item in some]
    assert divergence(some, far) == pytest.approx(1)


def test_draws_follow_the_probabilities_and_depend_on_nothing_else() -> None:
    model = TokenNGram.learn(CLIPS, order=1)
    drawn = draw(model, [clip(0, 4000)], seed=0)[0]
    p = model.start(CODEC.spec, (1,)).probabilities()
    counts = np.bincount(drawn.ids.flatten(), minlength=256)
    likely = p > 0.01
    assert np.abs(counts[likely] / 4000 - p[likely]).max() < 5 * (p.max() / 4000) ** 0.5
    assert drawn.side["size"].equal(clip(0, 4000).side["size"])
    pair, one = draw(model, CLIPS[:2], seed=3), draw(model, CLIPS[:1], seed=3)
    assert pair[0] == one[0]
    assert draw(model, CLIPS[:1], seed=4)[0] != one[0]


def test_a_comparison_needs_items_of_its_own() -> None:
    with pytest.raises(ValueError, match="more than the 12 drawn items"):
        compare(CLIPS, CLIPS, CODEC.spec)


def test_spectra_of_noise_are_further_from_a_tone_s_than_another_tone_s() -> None:
    def pieces(x: torch.Tensor) -> torch.Tensor:
        return METRICS["mel_fd"].function(Pair(x, x, 16000))[0]

    t, combine = torch.arange(48000) / 16000, METRICS["mel_fd"].combine
    tones = [0.1 * torch.sin(2 * math.pi * (200 + 5 * t + i) * t)[None] for i in range(2)]
    noise = 0.1 * torch.randn(1, 48000, generator=torch.Generator().manual_seed(0))
    assert pieces(noise).shape == (6, 40)
    assert combine(pieces(tones[0]), pieces(tones[1])) < 0.1 * combine(pieces(tones[0]), pieces(noise))


# -- tokens ----------------------------------------------------------------------------------------


def test_tokens_come_from_shards_and_files_alike(tokens: Path) -> None:
    shard, writer = read(tokens / "train", most_items=3)
    assert writer == "toy"
    assert shard == [clip(100 + i, 60) for i in range(3)]
    assert read(tokens / "test")[0] == CLIPS
    assert read(tokens / "test" / "00.mmt") == ([CLIPS[0]], "toy")
    assert len(read(tokens / "train", most_ids=150)[0]) == 3
    assert fingerprint(CLIPS) != fingerprint(CLIPS[::-1])
    (tokens / "empty").mkdir()
    with pytest.raises(ValueError, match="must hold tokens, got none"):
        read(tokens / "empty")
    other = Tokens(CLIPS[0].ids, replace(CODEC.spec, hop=(320,)))
    other.save(tokens / "test" / "99.mmt")
    with pytest.raises(ValueError, match="tokens of one spec"):
        read(tokens / "test")


def test_batches_hold_every_item_once_in_order() -> None:
    found = list(batches(CLIPS, ids=50))
    assert len(found) > 3
    assert [int(n) for batch in found for n in batch.lengths] == [int(item.lengths) for item in CLIPS]
    assert max(batch.ids.numel() for batch in found) <= 50


# -- reports ---------------------------------------------------------------------------------------


def test_models_are_measured_beside_ngrams_and_shown(tokens: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "load", lambda name: CODEC)
    torch.manual_seed(0)
    stream = {"name": "toy", "spec": CODEC.spec.to_dict()}
    TokenLM([stream], dim=16, layers=1, heads=2).save_pretrained(tokens / "network")
    TokenNGram.learn([clip(100 + i, 60) for i in range(60)], order=2).save_pretrained(tokens / "counts")
    gone = {"train": "${NO_SUCH_VARIABLE}/train", "test": str(tokens / "test")}
    wanted = plan(tokens, sources={**plan(tokens).model_dump()["sources"], "gone": gone})
    report = evaluate_lms(
        [tokens / "network", tokens / "counts"], wanted, keep=tokens / "kept", codecs={"toy": "my-codec"}
    )
    rows = {row.model: row for row in report.rows}
    names = ["held-out", "network", "counts", "1-gram", "2-gram, sequence"]
    assert list(rows) == names
    assert rows["counts"].bits == rows["2-gram, sequence"].bits
    assert rows["counts"].fingerprint == rows["2-gram, sequence"].fingerprint
    assert rows["2-gram, sequence"].bits.per_id < rows["1-gram"].bits.per_id < 8
    assert rows["network"].bits.per_id == pytest.approx(8, abs=0.5)  # it knows nothing yet
    assert rows["network"].parameters > 4000
    assert rows["counts"].samples.divergence < rows["network"].samples.divergence
    assert set(rows["counts"].samples.metrics) == {"mel_fd"}
    assert "NO_SUCH_VARIABLE" in report.notes[0]
    report.save(tokens / "report.json")
    saved = json.loads((tokens / "report.json").read_text())
    assert saved["kind"] == "token-lm"
    assert saved["sources"][0]["nominal"] == 8
    assert str(tokens) not in json.dumps({key: value for key, value in saved.items() if key != "command"})
    shown = [table.columns[0]._cells for table in report.tables()]
    assert shown == [["equally likely ids", ".mmt without a model", *names]]
    page = write_page(report, tokens / "page.html", kept=tokens / "kept", limit=2).read_text()
    assert page.count("<audio") == page.count("<img") == 2 * 4  # held-out, both models, and the longest n-gram
    assert not re.search(r"""(src|href)=["'](?!data:)""", page)
    assert "<script" not in page


def test_models_of_other_tokens_and_missing_sources_are_refused(tokens: Path) -> None:
    spec = TokenSpec("image", (8,), axes=("height", "width"))
    picture = Tokens(torch.arange(6)[None, :, None], spec, torch.tensor([[2, 3]]))
    TokenNGram.learn([picture], order=1).save_pretrained(tokens / "other")
    with pytest.raises(ValueError, match=r"\['other'\] know the tokens of no source: toy"):
        evaluate_lms([tokens / "other"], plan(tokens, samples=0))
    with pytest.raises(ValueError, match="must have a source whose tokens are there: toy is left out: no tokens at"):
        evaluate_lms([], plan(tokens / "nowhere"))


def test_ngrams_are_counted_and_measured_from_the_command_line(
    tokens: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*args: object) -> int | str | None:
        with pytest.raises(SystemExit) as stop:
            main(["lm", *map(str, args)])
        return stop.value.code

    assert run("count", tokens / "train", "-o", tokens / "lm", "--order", 2, "--min-count", 2) == 0
    assert TokenNGram.from_pretrained(tokens / "lm").order == 2
    sides = ("--train", tokens / "train", "--test", tokens / "test")
    assert run("eval", tokens / "lm", *sides, "--samples", 2, "-o", tokens / "r.json", "--html", tokens / "r.html") == 0
    shown = capsys.readouterr().out
    assert "5-gram, sequence" in shown
    assert "draws are not decoded: the file was written by 'toy'" in shown
    assert len(json.loads((tokens / "r.json").read_text())["rows"]) == 7
    assert run("eval", "--train", tokens / "train") == 1
    assert "--train and --test go together" in capsys.readouterr().err


def test_shipped_plans_load_and_wrong_ones_name_the_fault(tmp_path: Path) -> None:
    assert load_plan("token-lm").name == "token-lm"
    with pytest.raises(ValueError, match="mmtok lm eval"):
        load_suite("token-lm")
    with pytest.raises(ValueError, match=r"no suite 'nope': expected one of \['token-lm'\]"):
        load_plan("nope")
    for text, message in (("name: [", "not YAML"), ("{name: x, sources: {}}", "sources"), ("{sources: 3}", "name")):
        (tmp_path / "wrong.yaml").write_text(text)
        with pytest.raises(ValueError, match=message):
            load_plan(tmp_path / "wrong.yaml")


def test_models_with_classes_can_be_told_them(tokens: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ["high", "low"]
    with ShardWriter(tokens / "labelled", Origin("toy", CODEC.spec)) as shard:
        for i, item in enumerate(CLIPS):
            shard.write(Item(f"{i}", item, names[i % 2]))
    torch.manual_seed(0)
    stream = {"name": "toy", "spec": CODEC.spec.to_dict()}
    network = TokenLM([stream], classes=names, dim=16, layers=1, heads=2).eval()
    network.embedding.weight.data[network.vocabulary.label("low")] *= 40  # so that it matters
    network.save_pretrained(tokens / "network")
    TokenLM([stream], classes=["other"], dim=16, layers=1, heads=2).save_pretrained(tokens / "strange")
    given = {"toy": {"train": str(tokens / "train"), "test": str(tokens / "labelled")}}
    wanted = plan(tokens, sources=given, samples=0, labels=True)
    report = evaluate_lms([tokens / "network", tokens / "strange"], wanted)
    rows = {row.model: row for row in report.rows}
    nats = [float(network.score(item, "toy", [names[i % 2]]).sum()) for i, item in enumerate(CLIPS)]
    told = rows["network"].told
    assert told is not None
    assert told.per_id == pytest.approx(sum(nats) / math.log(2) / sum(int(item.lengths) for item in CLIPS))
    assert abs(told.per_id - rows["network"].bits.per_id) > 1e-4
    assert rows["2-gram, sequence"].told is rows["strange"].told is None
    assert any("strange is not told classes: label must be the name of a class" in note for note in report.notes)
    page = write_page(report, tokens / "page.html", kept=None).read_text()
    assert "class told" in page
    assert f"{told.per_id:.3f}" in page
    assert not any(
        "class told" in column.header for table in evaluate_lms([], plan(tokens)).tables() for column in table.columns
    )
    with pytest.raises(SystemExit):
        main(
            [
                "lm",
                "eval",
                "--train",
                str(tokens / "train"),
                "--test",
                str(tokens / "test"),
                "--samples",
                "0",
                "--label",
            ]
        )
    assert "classes are not told: not every held-out item has one" in " ".join(capsys.readouterr().out.split())
