"""Writing: valid text whatever is drawn, whole characters, batches as rows alone, commands and recipes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tests.text.test_hat import KINDS, TEXT, build
from tokenizers_mm import cli
from tokenizers_mm.text import SubwordCodec
from tokenizers_mm.text.flops import training_flops
from tokenizers_mm.text.generate import complete, load_model, stream
from tokenizers_mm.text.rows import signal_of, words_of
from tokenizers_mm.text.study import adapt, compare, steps_to
from tokenizers_mm.training.run import train

DRAWS = [k for k in KINDS if k not in ("paper-uax29", "tfree-entropy")]


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("vocabulary")
    SubwordCodec.learn([TEXT * 3, "second document " * 3], 270).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("kind", DRAWS)
def test_what_is_drawn_is_text(kind: str, vocabulary: str) -> None:
    model, prompts = build(kind, vocabulary), ["Hello wö", "x", "für".encode()[:2]]
    texts = [complete(model, prompts, 24, generator=torch.Generator().manual_seed(1)) for _ in "ab"]
    assert texts[0] == texts[1]
    assert all(len(text.encode("utf-8")) <= 24 + 2 for text in texts[0])  # the open character's first bytes were there
    assert texts[0][2][:1] in "ÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏÐÑÒÓÔÕÖ×ØÙÚÛÜÝÞßàáâãäåæçèéêëìíîïðñòóôõö÷øùúûüýþÿ"
    for pieces in stream(model, prompts, 4, temperature=0):
        assert all(piece.encode("utf-8").decode("utf-8") == piece for piece in pieces)


@pytest.mark.parametrize("kind", DRAWS)
def test_rows_go_on_beside_others_as_alone(kind: str, vocabulary: str) -> None:
    model, prompts = build(kind, vocabulary), ["Hello ", "a", "日本", "it's a longer prompt of six"]
    together = complete(model, prompts, 12, temperature=0)
    assert together == [complete(model, [prompt], 12, temperature=0)[0] for prompt in prompts]


def test_special_tokens_of_prompts_are_words_of_one_byte() -> None:
    model = build("tfree")
    data = model.prompt("Hi<|eot_id|> you")
    assert data == b"Hi\xc0 you"
    assert words_of(data, model.cut) == [b"Hi", b"\xc0", b" you"]  # type: ignore[attr-defined]
    assert complete(model, ["Hi<|eot_id|> you"], 4, temperature=0) == complete(model, [data], 4, temperature=0)


def test_wrong_options_and_prompts_are_refused() -> None:
    model = build("paper")
    for options in ({"top_p": 0.0}, {"temperature": -1.0}, {"top_k": 0}, {"max_bytes": 0}):
        with pytest.raises(ValueError, match="max_bytes and top_k"):
            complete(model, ["a"], **{"max_bytes": 4, **options})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="prompt must be UTF-8"):
        complete(model, [b"\xff\xfe\x80a"], 4)
    with pytest.raises(UnicodeEncodeError):
        complete(model, ["\ud800"], 4)


@pytest.mark.parametrize("kind", ["paper", "tfree", "hnet", "byte", "subword"])
def test_operations_are_those_that_pytorch_counts(kind: str, vocabulary: str) -> None:
    model, signal = build(kind, vocabulary), signal_of([TEXT, "second document"])
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model.score(signal)
    extra = 0 if kind != "hnet" else counter.get_total_flops() - training_flops(model, signal) // 3
    assert training_flops(model, signal) == 3 * (counter.get_total_flops() - extra)
    assert 0 <= extra < 0.05 * counter.get_total_flops()  # the smoothing of chunks is no layer


def test_comparison_and_adaptation() -> None:
    model, documents = build("paper"), [TEXT.encode() * 3, b"Another document of words."]
    found = compare(model, documents, length=64)
    assert {"bits_per_byte", "word_accuracy", "bits_per_byte_upper", "training_flops_per_byte"} <= found.keys()
    before = {name: p.clone() for name, p in model.named_parameters()}
    curve = adapt(model, documents, documents, steps=8, every=4, length=64, lr=1e-2)
    assert [point["step"] for point in curve] == [0, 4, 8]
    assert curve[-1]["bits_per_byte"] < curve[0]["bits_per_byte"]
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert steps_to([{"step": 0, "bits_per_byte": 4.0}, {"step": 10, "bits_per_byte": 2.0}], 3.0) == 5.0
    assert steps_to(curve, 0.0) is None


@pytest.mark.parametrize(
    "recipe", ["hat-small", "hat-fixed-4-small", "byte-small", "bpe-small", "hat-tfree-small", "hnet-small"]
)
def test_recipes_train_and_leave_models_that_write(recipe: str, vocabulary: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(f"{TEXT}\n" * 8)
    tiny = [
        "trainer.max_steps=2", "trainer.val_check_interval=2", "trainer.log_every_n_steps=1", "trainer.accelerator=cpu",
        "trainer.enable_progress_bar=false", "data.init_args.batch_size=2", "data.init_args.length=64",
        f"data.init_args.train.path={tmp_path}/a.txt", f"data.init_args.valid.path={tmp_path}/a.txt",
    ]  # fmt: skip
    if recipe == "bpe-small":
        tiny.append(f"model.init_args.network.init_args.vocabulary={vocabulary}")
    run = train(recipe, tiny, output=tmp_path / "run")
    assert complete(load_model(run / "model"), ["Hello"], 8)
    assert "val/bits" in (run / "metrics.csv").read_text().splitlines()[0]


@pytest.mark.filterwarnings("ignore:LightningCLI's args parameter")  # they are those of this test run
@pytest.mark.parametrize("recipe", ["hat-paper-1b", "hat-paper-3b", "hat-paper-7b", "hat-tfree-7b", "hnet-large"])
def test_published_recipes_build(recipe: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from tokenizers_mm.training.run import find_recipe, parse

    with torch.device("meta"):
        cli_ = parse(find_recipe(recipe), ["trainer.accelerator=cpu", "trainer.precision=32-true"], tmp_path)
    assert sum(p.numel() for p in cli_.model.network.parameters()) > 5e8


def run_command(words: list[str]) -> int:
    with pytest.raises(SystemExit) as stop:
        cli.main(words)
    return int(stop.value.code or 0)


def test_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build("paper").save_pretrained(tmp_path / "model")
    (tmp_path / "a.txt").write_text(f"{TEXT}\n" * 20)
    model = str(tmp_path / "model")
    assert run_command(["text", "complete", model, "Hello ", "-n", "8", "--seed", "1"]) == 0
    one = capsys.readouterr().out
    assert one.startswith("Hello ")
    assert run_command(["text", "complete", model, "Hello ", "Hello ", "-n", "8", "--seed", "1"]) == 0
    assert len(capsys.readouterr().out.splitlines()) >= 2
    data = str(tmp_path / "a.txt")
    assert run_command(["text", "compare", model, "--data", data, "-o", str(tmp_path / "c.json")]) == 0
    assert '"bits_per_byte"' in (tmp_path / "c.json").read_text()
    assert run_command(["text", "adapt", model, "--train", data, "--valid", data, "--steps", "2", "--every", "1"]) == 0
    assert run_command(["text", "bench", model, "--data", data, "-n", "32"]) == 0
    assert run_command(["text", "store", model, str(tmp_path / "half")]) == 0
    full, half = (load_model(path).state_dict() for path in (model, tmp_path / "half"))
    assert all(torch.equal(half[name], tensor.half().float()) for name, tensor in full.items())
    assert run_command(["text", "complete", str(tmp_path), "Hello"]) == 1


def test_a_character_that_cannot_be_completed_is_not_begun() -> None:
    from tokenizers_mm.text.generate import _goes_on

    for first in range(256):
        for second in range(256):
            start = bytes([first, second])
            endings = (
                b"",
                b"\x80",
                b"\x80\x80",
                b"\xa0\x80",
                b"\x80\x80\x80",
                b"\x90\x80\x80",
            )  # of all that begins with two bytes
            if min(start) >= 0x20:  # below are marks
                assert _goes_on(b"", start, 8) == any(_decodes(start + ending) for ending in endings), start


def _decodes(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
