"""Results and leaderboard: what `mmtok eval` made of the suite's data enters, and nothing else."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_codecs import Coarse

from tokenizers_mm import registry
from tokenizers_mm.evaluation import verify
from tokenizers_mm.evaluation.items import find_items
from tokenizers_mm.evaluation.leaderboard import build, results_folder, write
from tokenizers_mm.evaluation.report import ItemResult, Report
from tokenizers_mm.evaluation.run import evaluate
from tokenizers_mm.evaluation.schema import json_schema, read_report
from tokenizers_mm.evaluation.summarise import summarise_metrics

Edit = Callable[[dict[str, Any]], object]
COMMAND = "mmtok eval Coarse --suite {suite} -o results/coarse.json"


@pytest.fixture
def suite(folder: Path, tmp_path: Path) -> Path:
    fingerprint = find_items(folder, (".wav", ".flac")).fingerprint()
    path = tmp_path / "toy.yaml"
    path.write_text(
        f"name: {path}\nmodality: audio\ndata: {folder}\nfingerprint: {fingerprint}\nmetrics: [mel, l1, fad, dwer]\n"
        "headline: [mel]\nconditions: [clean, quiet]\nbaselines: [opus-6, pcm16]\nstability: true\n"
    )
    return path


@pytest.fixture
def report(suite: Path, folder: Path) -> Report:
    def embed(signal: torch.Tensor, rate: int) -> torch.Tensor:
        return signal[: len(signal) // 2 * 2].reshape(-1, 2)

    made = evaluate([Coarse()], suite=suite, models={"fad": embed}, progress=False)
    return replace(made, command=COMMAND.format(suite=suite))


@pytest.fixture
def results(tmp_path: Path, report: Report) -> Path:
    folder = tmp_path / "eval" / "results"
    folder.mkdir(parents=True)
    report.save(folder / "coarse.json")
    return folder


def test_a_report_reads_back_as_it_was(results: Path, report: Report):
    read = read_report(results / "coarse.json")
    assert replace(read, digest="").to_json() == report.to_json()
    assert read.codecs[0].items == report.codecs[0].items
    assert read.digest == report.content_digest()
    assert read.table().row_count == report.table().row_count


def test_a_right_result_enters(results: Path):
    board = write(results)
    assert board.rejected == {}
    assert board.accepted == ("coarse.json",)
    text = (results.parent / "LEADERBOARD.md").read_text()
    assert text == board.text
    for part in ("### clean", "### quiet", "| **Coarse** | 3.20 |", "*Opus 6k*", "*16-bit PCM*", "results/coarse.json"):
        assert part in text, part
    assert write(results, check=True).text == text


def test_rows_come_cheapest_first(results: Path):
    clean = build(results).text.split("#### Variants")[0].splitlines()
    rates = [float(line.split("|")[3]) for line in clean if line.endswith("(results/coarse.json) |")]
    assert len(rates) == 2
    assert rates == sorted(rates)


def renamed(report: Report, **names: str) -> Report:
    """The toy's codec again under other names, as if it had been run from folders or been a card."""
    codecs = tuple(replace(c, codec=name) for name in names.values() for c in report.codecs if c.kind == "codec")
    baselines = tuple(c for c in report.codecs if c.kind == "baseline")
    command = report.command.replace("Coarse", " ".join(names.values()))
    return replace(report, codecs=(*codecs, *baselines), command=command)


def test_codecs_from_folders_stand_apart_from_those_that_ship(
    results: Path, report: Report, monkeypatch: pytest.MonkeyPatch
):
    """A comparison of trained variants verifies, under its own title and short names, and takes no place on the board."""
    monkeypatch.setattr(verify, "_card_fingerprint", lambda name: None)
    (results / "coarse.json").unlink()
    made = renamed(report, a="runs/fsq-6/codec", b="runs/rvq-6/codec", card="wavtokenizer-40")
    worse = {key: replace(s, mean=s.mean and 2 * s.mean) for key, s in made.codecs[0].metrics.items()}
    made.save(results / "variants.toy.json")
    board = write(results)
    assert board.rejected == {}
    main, variants = board.text.split("### quiet")[0].split("#### Variants")
    assert "| **wavtokenizer-40** |" in main
    assert "fsq-6" not in main
    rows = [line.split("|")[2].strip() for line in variants.splitlines() if "**" in line]
    assert sorted(rows) == ["**fsq-6**", "**rvq-6**", "**wavtokenizer-40**"]
    assert "Opus" not in variants.split("| result | made |")[0]
    doctored = replace(made, codecs=(replace(made.codecs[0], metrics=worse), *made.codecs[1:]))
    doctored.save(results / "variants.toy.json")
    assert "the summary does not follow from the items" in str(build(results).rejected)


def test_variants_are_sorted_best_first(results: Path, report: Report):
    made = renamed(report, a="runs/z/codec", b="runs/a/codec")
    loud = [
        replace(c, items=tuple(better(i) for i in c.items)) if c.codec == "runs/z/codec" else c for c in made.codecs
    ]
    loud = [replace(c, metrics=c.metrics | summarise_metrics(c.items, ["mel", "l1", "dwer"])) for c in loud]
    replace(made, codecs=tuple(loud)).save(results / "coarse.json")
    board = build(results)
    assert board.rejected == {}
    table = board.text.split("#### Variants")[1].split("| result | made |")[0]
    assert table.index("**z**") < table.index("**a**")


def better(item: ItemResult) -> ItemResult:
    return replace(item, metrics={**item.metrics, "mel": item.metrics["mel"] / 2})


def test_a_page_that_is_not_what_the_command_makes_is_found(results: Path):
    with pytest.raises(ValueError, match=r"LEADERBOARD\.md is not what `mmtok leaderboard` makes"):
        write(results, check=True)
    write(results)
    (results.parent / "LEADERBOARD.md").write_text("we are the best\n")
    with pytest.raises(ValueError, match="run it"):
        write(results, check=True)


def test_the_front_is_what_nothing_cheaper_beats(results: Path):
    rows = [line for line in build(results).text.split("### quiet")[0].splitlines() if "results/coarse.json) |" in line]
    stars = {row.split("|")[2].strip(" *"): "★" in row for row in rows if row.startswith(("| ★", "|  "))}
    assert stars["16-bit PCM"]
    assert stars["Coarse"] or stars["Opus 6k"]


def test_the_newest_of_two_results_counts(results: Path, report: Report):
    replace(report, date="2000-01-01T00:00:00+00:00").save(results / "old.json")
    text = build(results).text
    assert text.count("| **Coarse** |") == 2  # once per condition
    assert "[old](results/old.json)" not in text
    assert "[old.json](results/old.json)" in text


def resealed(path: Path, edit: Edit) -> None:
    """Edit a result and make its digest right again."""
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))
    read_report(path).save(path)


def set_value(*keys: Any, value: Any) -> Edit:
    def edit(content: dict[str, Any]) -> None:
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = value

    return edit


@pytest.mark.parametrize(
    ("edit", "fault"),
    [
        (set_value("codecs", 0, "metrics", "mel", "mean", value=0.1), "metrics.mel: the summary does not follow"),
        (set_value("codecs", 0, "metrics", "mel", "count", value=9), "metrics.mel: the summary does not follow"),
        (set_value("codecs", 0, "metrics", "dwer", "failures", value={}), "metrics.dwer: the summary does not follow"),
        (set_value("codecs", 0, "items", 1, "metrics", "l1", value=0.0), "metrics.l1: the summary does not follow"),
        (set_value("codecs", 0, "stability", "noise", "mean", value=1.0), "stability.noise: the summary does not"),
        (set_value("codecs", 0, "nominal_rate", value=0.5), "nominal_rate: does not follow"),
        (set_value("codecs", 0, "file_rate", value=0.5), "file_rate: does not follow"),
        (set_value("codecs", 1, "file_rate", value=0.5), "file_rate: does not follow"),
        (set_value("codecs", 0, "encode", "mean", value=1e-6), "encode: the summary does not follow"),
        (set_value("codecs", 0, "health", "steps", value=3), "health: does not count"),
        (set_value("codecs", 0, "health", value=None), "health: missing"),
        (lambda c: [i.update(bits=i["bits"] / 2) for i in c["codecs"][0]["items"]], "bits are not steps times"),
        (lambda c: c["codecs"][0]["items"].pop(), "items: 2 of 3 files"),
        (lambda c: c["codecs"].pop(), "not every codec was run once under every condition"),
        (set_value("data", "fingerprint", value="0" * 64), "data: fingerprint 0000000000000000"),
        (set_value("settings", "suite_digest", value="0" * 16), "suite: it has changed since"),
        (set_value("settings", "limit", value=3), "limit: only 3 files"),
        (set_value("settings", "conditions", value={"clean": "as is"}), "conditions: "),
        (set_value("definitions", "mel", "definition", value="better"), "definitions: "),
        (set_value("suite", value="no-such-suite"), "no suite 'no-such-suite'"),
        (set_value("command", value="python mine.py"), "command: must be `mmtok eval"),
        (set_value("command", value="mmtok eval 'Coarse"), "command: must be `mmtok eval"),
        (set_value("command", value="mmtok eval Other --suite toy"), "command: does not name the codec 'Coarse'"),
        (set_value("command", value="mmtok eval Coarse"), "command: does not name the suite"),
        (set_value("codecs", 0, "codec", value="/home/me/codec"), "'/home/me/codec' is a path of one machine"),
        (set_value("command", value="mmtok eval Coarse --limit=3"), "--limit makes something else"),
    ],
)
def test_a_result_that_was_doctored_stays_out(results: Path, edit: Edit, fault: str):
    resealed(results / "coarse.json", edit)
    board = build(results)
    assert board.accepted == ()
    assert fault in "; ".join(board.rejected["coarse.json"])
    assert "No result yet" in board.text


def test_an_edit_without_a_new_digest_is_seen(results: Path):
    path = results / "coarse.json"
    path.write_text(path.read_text().replace('"date": "2', '"date": "1'))
    assert build(results).rejected["coarse.json"] == ["digest: the file was changed after it was made"]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("not json", "is not a JSON object"),
        ("[]", "is not a JSON object"),
        ('{"schema": 1}', "this library reads version 2 of reports, got 1"),
        ('{"schema": 2}', "suite: "),
    ],
)
def test_what_is_no_report_is_named_and_the_rest_still_enters(results: Path, text: str, fault: str):
    (results / "bad.json").write_text(text)
    board = build(results)
    assert board.accepted == ("coarse.json",)
    assert fault in board.rejected["bad.json"][0]


def test_unknown_keys_and_numbers_that_are_none_are_refused(results: Path, tmp_path: Path):
    content = json.loads((results / "coarse.json").read_text())
    for edit, where in (
        (set_value("codecs", 0, "health", "codebooks", 0, "luck", value=1), "codecs.0.health.codebooks.0.luck"),
        (set_value("codecs", 0, "items", 0, "steps", value="3"), "codecs.0.items.0.steps"),
        (set_value("codecs", 0, "items", 0, "bits", value=float("nan")), "codecs.0.items.0.bits"),
    ):
        wrong = json.loads(json.dumps(content))
        edit(wrong)
        (tmp_path / "wrong.json").write_text(json.dumps(wrong))
        with pytest.raises(ValueError, match=rf"wrong\.json: .*{where}"):
            read_report(tmp_path / "wrong.json")


def test_a_cards_result_is_stale_when_its_weights_change(results: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(verify, "_card_fingerprint", lambda name: "another")
    assert any("the card's weights have changed" in fault for fault in build(results).rejected["coarse.json"])


def test_the_schema_describes_a_result(results: Path):
    jsonschema = pytest.importorskip("jsonschema")
    content = json.loads((results / "coarse.json").read_text())
    jsonschema.validate(content, json_schema())
    content["codecs"][0]["items"][0]["steps"] = "3"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(content, json_schema())


def test_the_committed_leaderboard_and_schema_are_up_to_date():
    assert write(results_folder(), check=True).rejected == {}


def test_a_missing_folder_is_refused(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="results must be a folder"):
        build(tmp_path / "gone")


def test_every_shipped_suite_has_data_that_can_be_checked():
    for path in sorted((registry.data_path("eval") / "suites").glob("*.yaml")):
        if "kind:" in path.read_text():  # of language models, which the leaderboard does not hold
            continue
        assert len(verify.data_fingerprint(verify.load_suite(path))) == 64
