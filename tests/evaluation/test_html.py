"""The HTML report: complete, right, deterministic, closed to the network, and safe whatever names the data has."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import pytest
import soundfile
import torch
from PIL import Image
from toy_report import ITEMS, RATE, SPEC, toy_report

from tokenizers_mm import registry
from tokenizers_mm.audio import files, show
from tokenizers_mm.cli import main
from tokenizers_mm.evaluation import gallery
from tokenizers_mm.evaluation.exhibit import Exhibit
from tokenizers_mm.evaluation.html import write_html
from tokenizers_mm.evaluation.html_table import family
from tokenizers_mm.evaluation.keep import Kept
from tokenizers_mm.evaluation.schema import read_report

HOSTILE = (
    "<script>window.hacked=1</script>",
    '"><img src=x onerror=window.hacked=1>',
    "</script><script>window.hacked=1</script>",
    "<!--<script>",
    "'; window.hacked=1; //",
    "&lt;b&gt; ${alert(1)} \u2028 \udcff.wav",
)


class Page(HTMLParser):
    """Elements, attributes, texts and JSON islands of a page."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str]] = []
        self.contents: dict[str, str] = {}
        self.cells: list[dict[str, str]] = []
        self.text = ""
        self._in = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        found = {key: value or "" for key, value in attrs}
        self.tags[tag] += 1
        self.attributes += [(tag, key, value) for key, value in found.items()]
        self._in = found.get("id") or tag if tag in ("script", "style") else ""
        if tag in ("td", "th"):
            self.cells.append({**found, "text": ""})

    def handle_endtag(self, tag: str) -> None:
        self._in = ""

    def handle_data(self, data: str) -> None:
        if self._in:
            self.contents[self._in] = self.contents.get(self._in, "") + data
            return
        self.text += data
        if self.cells:
            self.cells[-1]["text"] += data

    def island(self, name: str) -> dict:
        return json.loads(self.contents[name])


def write(report: object, path: Path, **options: object) -> Page:
    return Page(write_html(report, path / "report.html", **{"items_folder": None, **options}).read_text("utf-8"))  # type: ignore[arg-type]


def test_page_needs_nothing_from_outside(tmp_path: Path):
    page = write(toy_report(tmp_path / "kept"), tmp_path, items_folder=tmp_path / "kept")
    assert not page.tags.keys() & {"link", "iframe", "object", "embed", "base", "img"}
    for tag, key, value in page.attributes:
        assert not key.startswith("on")
        assert key not in ("style", "src", "srcset", "action")
        assert key != "href" or value.startswith("#"), (tag, key, value)
    outside = [
        url for url in re.findall(r"https?://[^\s\"'`)]+", "".join(page.contents.values())) if "www.w3.org" not in url
    ]
    assert not outside
    assert not re.search(
        r"@import|url\(|\bfetch\(|XMLHttpRequest|WebSocket|innerHTML|\beval\(",
        page.contents["style"] + page.contents["script"],
    )


def test_policy_allows_only_this_script_and_this_style(tmp_path: Path):
    page = write(toy_report(), tmp_path)
    (policy,) = [v for _, k, v in page.attributes if k == "content" and "default-src" in v]
    assert policy.startswith("default-src 'none'; ")
    assert not re.search(r"unsafe|\*|connect-src|http", policy)
    for name in ("script", "style"):
        digest = base64.b64encode(hashlib.sha256(page.contents[name].encode()).digest()).decode()
        assert f"{name}-src 'sha256-{digest}'" in policy
    assert sum(1 for t, k, _ in page.attributes if (t, k) == ("script", "type")) == page.tags["script"] - 1


@pytest.mark.parametrize("hostile", HOSTILE)
def test_no_name_becomes_markup(hostile: str, tmp_path: Path):
    plain, evil = (
        toy_report(),
        toy_report(items=(hostile, "b.wav"), codecs=("good", hostile), failing={("good", hostile): hostile}),
    )
    evil = replace(
        evil, suite=hostile, command=hostile, machine={"cpu": hostile}, versions={hostile: hostile},
        data={**evil.data, "name": hostile, "split": hostile}, about={hostile: {hostile: hostile}},
    )  # fmt: skip
    evil = replace(evil, codecs=tuple(replace(c, condition=hostile) for c in evil.codecs))
    (tmp_path / "plain").mkdir()
    page, other = write(evil, tmp_path), write(plain, tmp_path / "plain")
    fixed = {"script", "style", "img", "b", "a", "meta", "title", "body", "html", "main", "section"}
    assert {tag: page.tags[tag] for tag in fixed} == {tag: other.tags[tag] for tag in fixed}
    assert not [key for _, key, _ in page.attributes if key.startswith("on")]
    data = page.island("report")
    assert hostile in [item["name"] for item in data["items"]]
    assert data["series"][1]["family"] == hostile
    assert data["items"][0]["results"][0]["error"] == hostile
    shown = hostile.encode("utf-8", "replace").decode()
    assert shown in page.text.replace("\n", "")


def test_same_report_gives_the_same_bytes(tmp_path: Path):
    report = toy_report(tmp_path / "kept")
    first, second = (
        write_html(report, tmp_path / name, items_folder=tmp_path / "kept") for name in ("a.html", "b.html")
    )
    assert first.read_bytes() == second.read_bytes()


def test_table_shows_the_reports_numbers_and_marks_the_best_codec(tmp_path: Path):
    report = toy_report()
    page = write(report, tmp_path)
    heads = [cell["text"] for cell in page.cells if cell.get("scope") == "col" and "aria-sort" in cell]
    assert [h for h in heads if h.startswith(("STOI", "mel"))] == ["STOI↑", "mel↓"]
    assert not any("MOS" in head for head in heads)  # measured nowhere
    values = [cell for cell in page.cells if "data-value" in cell and "scope" not in cell]
    width = len(heads) - 1
    for row, result in enumerate(report.codecs):
        cells = dict(zip(heads[1:], values[row * width : (row + 1) * width], strict=True))
        stoi = result.metrics["stoi"]
        assert cells["STOI↑"]["text"] == f"{stoi.mean:.3f}±{stoi.ci95:.3f}"
        assert float(cells["STOI↑"]["data-value"]) == pytest.approx(stoi.mean)
        assert cells["ratekbit/s"]["text"] == f"{result.file_rate:.2f}"
        best = {head for head, cell in cells.items() if cell.get("class") == "best"}
        assert {"STOI↑", "mel↓"} & best == ({"STOI↑", "mel↓"} if result.codec == "good" else set())
    for part in ("0123456789ab", "Toy CPU", "mmtok eval good bad", "2026-01-02 03:04:05 UTC", "torch 2", "split test"):
        assert part in page.text


def test_worst_items_come_first_and_only_they_bring_media(tmp_path: Path):
    report = toy_report(tmp_path / "kept", failing={("bad", "b.wav"): "RuntimeError: no"})
    data = (page := write(report, tmp_path, items_folder=tmp_path / "kept", limit=2)).island("report")
    assert [item["name"] for item in data["items"]] == ["b.wav", "d.wav", "sub/c.wav", "a.wav"]
    assert [item["media"] for item in data["items"]] == [0, 1, None, None]
    assert data["shown"] == 2
    assert {name for name in page.contents if name.startswith("media-")} == {"media-0", "media-1"}
    assert "bad: b.wav failed: RuntimeError: no" in page.text


def test_media_stop_at_a_sane_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    report = toy_report(tmp_path / "kept")
    every = (write_html(report, tmp_path / "a.html", items_folder=tmp_path / "kept")).stat().st_size
    monkeypatch.setattr(gallery, "MEDIA_BYTES", every / 2)
    fewer = write_html(report, tmp_path / "b.html", items_folder=tmp_path / "kept")
    assert fewer.stat().st_size < 0.8 * every
    assert 0 < Page(fewer.read_text("utf-8")).island("report")["shown"] < len(ITEMS)


def test_sound_is_lossless_and_ids_are_those_of_the_tokens(tmp_path: Path):
    report = toy_report(tmp_path / "kept")
    page = write(report, tmp_path, items_folder=tmp_path / "kept")
    kept = report.codecs[0].items[3].kept
    media = page.island("media-0")  # d.wav, the worst
    version, original = media["versions"]["0"], media["originals"][kept.original]
    for shown, path in ((version, kept.reconstruction), (original, kept.original)):
        sound, rate = soundfile.read(io.BytesIO(base64.b64decode(shown["sound"])), dtype="int16")
        stored, _ = soundfile.read(tmp_path / "kept" / path, dtype="int16")
        assert rate == RATE
        assert (sound == stored).all()
    ids = torch.frombuffer(bytearray(base64.b64decode(version["ids"]["data"])), dtype=torch.int32)
    assert torch.equal(ids.reshape(2, -1).T, (torch.arange(300).reshape(150, 2) * 4 % 64).int())
    assert media["versions"]["2"]["ids"] is None  # a baseline has none


def test_files_outside_of_the_folder_are_not_read(tmp_path: Path):
    report = toy_report(tmp_path / "kept", items=("a.wav",), codecs=("good",))
    secret = tmp_path / "secret.wav"
    files.write(secret, torch.rand(1, RATE) - 0.5, SPEC)
    (result,) = report.codecs
    for stolen in ("../secret.wav", str(secret)):
        item = replace(result.items[0], kept=Kept(original=stolen, reconstruction=stolen, tokens=stolen))
        page = write(
            replace(report, codecs=(replace(result, items=(item,)),)), tmp_path, items_folder=tmp_path / "kept"
        )
        assert page.island("report")["shown"] == 0
        assert "outside of the folder" in page.text


def test_a_missing_file_is_named_and_the_rest_shown(tmp_path: Path):
    report = toy_report(tmp_path / "kept", items=("a.wav", "b.wav"))
    (tmp_path / "kept" / report.codecs[0].items[0].kept.reconstruction).unlink()
    page = write(report, tmp_path, items_folder=tmp_path / "kept")
    assert page.island("report")["shown"] == 2
    assert "not shown: good/clean/a.wav.wav" in page.text


def test_entries_seen_grow_with_the_ids_seen(tmp_path: Path):
    report = toy_report()
    books = write(report, tmp_path).island("report")["series"][1]["health"]["books"]
    for book, measured in zip(books, report.codecs[1].health.codebooks, strict=True):
        ids, shares = zip(*book["seen"], strict=True)
        assert list(shares) == sorted(shares)
        assert ids[-1] == measured.count
        assert shares[-1] == pytest.approx(measured.utilisation)


def test_codecs_that_fail_alike_share_a_remark(tmp_path: Path):
    every = {(name, "a.wav"): "ValueError: broken" for name in ("good", "bad", "Opus 6k", "Opus 24k")}
    notes = toy_report(failing={**every, ("good", "b.wav"): "RuntimeError: no"}).notes()
    assert [note for note in notes if "failed" in note] == [
        "all: a.wav failed: ValueError: broken",
        "good: b.wav failed: RuntimeError: no",
    ]


def test_only_manifest_columns_that_group_items_become_filters(tmp_path: Path):
    data = write(toy_report(), tmp_path).island("report")
    assert all(item["labels"].keys() == {"language"} for item in data["items"])


def test_nothing_measured_still_gives_a_page(tmp_path: Path):
    failing = {(codec, "a.wav"): "ValueError: broken" for codec in ("good", "bad")}
    page = write(toy_report(items=("a.wav",), codecs=("good", "bad"), failing=failing), tmp_path)
    assert page.island("report")["metrics"] == []
    assert "all: a.wav failed: ValueError: broken" in page.text


def test_any_modality_brings_its_own_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    report = replace(toy_report(tmp_path / "kept", codecs=("good",)), modality="radar")
    room = SimpleNamespace(
        render=lambda path, spec, original=None: Exhibit("an echo", image=b"png", image_type="image/png")
    )
    monkeypatch.setattr(registry, "wing", lambda modality, name: {("radar", "show"): room}[modality, name])
    media = write(report, tmp_path, items_folder=tmp_path / "kept").island("media-0")
    assert media["versions"]["0"]["image"] == "data:image/png;base64,cG5n"
    assert media["versions"]["0"]["sound"] is None


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"limit": -1}, ValueError, "limit must be 0 or more, got -1"),
        ({"items_folder": "/no/such"}, FileNotFoundError, "items_folder"),
        ({"path": "/no/such/report.html"}, FileNotFoundError, "path"),
    ],
)
def test_wrong_arguments_are_named(options: dict, error: type, message: str, tmp_path: Path):
    with pytest.raises(error, match=message):
        write_html(toy_report(), **{"path": tmp_path / "r.html", "items_folder": None, **options})


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Opus 6k", "Opus"),
        ("Codec 2 1200", "Codec 2"),
        ("opus@12 kbit/s", "opus"),
        ("16-bit PCM", "16-bit PCM"),
        ("12", "12"),
        ("JPEG q10", "JPEG"),
        ("JPEG 2000 1:40", "JPEG 2000"),
    ],
)
def test_settings_of_a_coder_are_one_family(name: str, expected: str):
    assert family(name) == expected


def test_exhibits_cannot_smuggle_a_type():
    with pytest.raises(ValueError, match="image_type"):
        Exhibit("x", image=b"", image_type='image/png" onload="x')


def test_command_writes_the_page_and_leaves_nothing_else(folder: Path, tmp_path: Path):
    page, saved = tmp_path / "r.html", tmp_path / "r.json"

    def run(*more: str) -> None:
        options = ["--data", str(folder), "--metrics", "mel", "-n", "1", "-o", str(saved), "--html", str(page), *more]
        with pytest.raises(SystemExit, match=r"^0$"):
            main(["eval", "wavtokenizer-speech-16k", *options])

    run()
    assert {path.name for path in tmp_path.iterdir()} == {folder.name, saved.name, page.name}
    assert Page(page.read_text("utf-8")).island("report")["shown"] == 1
    assert read_report(saved).kept is None
    run("--keep", str(tmp_path / "kept"))
    report = read_report(saved)
    assert (tmp_path / report.kept / report.codecs[0].items[0].kept.reconstruction).is_file()


# -- the audio wing's exhibits ---------------------------------------------------------------------


def picture(exhibit: Exhibit) -> torch.Tensor:
    """Brightness ``[rows, columns]`` of an exhibit's picture."""
    image = Image.open(io.BytesIO(exhibit.image or b"")).convert("L")
    return torch.tensor(list(image.getdata()), dtype=torch.float32).reshape(image.height, image.width)


@pytest.mark.parametrize("hertz", [500, 1000, 4000])
def test_a_tone_is_bright_at_its_pitch_and_time(hertz: int, tmp_path: Path):
    t = torch.arange(2 * RATE) / RATE
    tone = 0.5 * torch.sin(2 * torch.pi * hertz * t) * (t > 1)
    files.write(tmp_path / "x.wav", tone[None], SPEC)
    pixels = picture(show.render(tmp_path / "x.wav", SPEC))
    rows, columns = pixels.shape
    mel = 2595 * torch.log10(torch.tensor([1 + hertz / 700, 1 + RATE / 2 / 700]))
    assert int(pixels.sum(dim=1).argmax()) == pytest.approx(rows - 1 - rows * float(mel[0] / mel[1]), abs=2)
    onset = int((pixels.max(dim=0).values > 128).int().argmax())
    assert onset == pytest.approx(columns / 2, abs=6)


def test_a_quieter_reconstruction_looks_darker_than_its_original(tmp_path: Path):
    noise = 0.3 * torch.randn(1, RATE).clamp(-3, 3)
    files.write(tmp_path / "loud.wav", noise, SPEC)
    files.write(tmp_path / "quiet.wav", 0.05 * noise, SPEC)
    loud, quiet = (
        picture(show.render(tmp_path / f"{n}.wav", SPEC, tmp_path / "loud.wav")).mean() for n in ("loud", "quiet")
    )
    assert quiet < 0.8 * loud


def test_long_clips_are_cut_and_say_so_and_short_ones_are_shown(tmp_path: Path):
    files.write(tmp_path / "long.wav", torch.zeros(1, 20 * RATE), SPEC)
    files.write(tmp_path / "short.wav", torch.full((1, 3), 0.1), SPEC)
    long, short = (show.render(tmp_path / f"{name}.wav", SPEC) for name in ("long", "short"))
    assert long.seconds == show.SECONDS
    assert long.share == pytest.approx(show.SECONDS / 20)
    assert short.share == 1
    assert short.image
