"""Corpora on disk: the same bytes for any number of workers, restart, batches with padding that no loss counts, training."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from tokenizers_mm.cli import main
from tokenizers_mm.timeseries import TimeRCD
from tokenizers_mm.timeseries.corpus_data import PADDING, CorpusCrops, CorpusDataModule, collate
from tokenizers_mm.timeseries.synthetic import CorpusSettings, generate, write_corpus
from tokenizers_mm.timeseries.synthetic.corpus import read_settings, read_shard
from tokenizers_mm.training.labelling import IGNORED, LabellingModule, hide

SETTINGS = CorpusSettings(10, seed=5, lengths=(300, 600), shard_size=4)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(folder, SETTINGS)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_the_number_of_workers_changes_no_byte(corpus: Path, tmp_path: Path) -> None:
    write_corpus(tmp_path, SETTINGS, workers=2)
    assert contents(tmp_path) == contents(corpus)
    assert list(contents(corpus)) == ["corpus.json", *(f"shard-{i:05d}.parquet" for i in range(3))]


def test_workers_start_without_torch() -> None:
    code = (
        "import sys, tokenizers_mm.timeseries.synthetic.corpus; print(sorted({'torch', 'pandas'} & sys.modules.keys()))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_speed_is_measured_on_the_same_bytes(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["bench-corpus", "-n", "4", "--rounds", "1", "-o", str(tmp_path / "speed.json")])
    assert stop.value.code in (0, None)
    report = json.loads((tmp_path / "speed.json").read_text())
    assert report["workers"] == 2
    assert report["faster"] == pytest.approx(report["single"]["wall"][0] / report["parallel"]["wall"][0])


def test_a_corpus_that_was_cut_short_goes_on(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, data in contents(corpus).items():
        if name != "shard-00001.parquet":
            (tmp_path / name).write_bytes(data)
    (tmp_path / ".shard-00001.parquet.1.tmp").write_bytes(b"half")
    before = (tmp_path / "shard-00000.parquet").stat().st_mtime_ns
    write_corpus(tmp_path, SETTINGS)
    assert (tmp_path / "shard-00001.parquet").read_bytes() == contents(corpus)["shard-00001.parquet"]
    assert (tmp_path / "shard-00000.parquet").stat().st_mtime_ns == before


def test_a_folder_of_other_settings_is_refused(corpus: Path) -> None:
    with pytest.raises(ValueError, match="holds another corpus"):
        write_corpus(corpus, CorpusSettings(11, seed=5, lengths=(300, 600), shard_size=4))


def test_shards_hold_the_samples(corpus: Path) -> None:
    found = [sample for path in sorted(corpus.glob("*.parquet")) for sample in read_shard(path)]
    assert len(found) == 10
    for index, sample in enumerate(found):
        wanted = generate(5, index, 1, (300, 600))
        for name in ("series", "normal", "labels"):
            np.testing.assert_array_equal(getattr(sample, name), getattr(wanted, name))
        assert sample.attributes == json.loads(json.dumps(wanted.attributes, default=float))


def test_variates_survive_the_disk(tmp_path: Path) -> None:
    write_corpus(tmp_path, CorpusSettings(2, variates=(3, 3), lengths=(300, 400)))
    for index, sample in enumerate(read_shard(tmp_path / "shard-00000.parquet")):
        np.testing.assert_array_equal(sample.series, generate(0, index, 3, (300, 400)).series)


def test_damaged_corpora_are_one_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no corpus"):
        read_settings(tmp_path)
    (tmp_path / "corpus.json").write_text("[]")
    with pytest.raises(ValueError, match="does not describe a corpus"):
        read_settings(tmp_path)
    (tmp_path / "corpus.json").write_text(json.dumps({**SETTINGS.to_dict(), "version": 99}))
    with pytest.raises(ValueError, match="version 99 of the generator"):
        read_settings(tmp_path)
    (tmp_path / "shard-00000.parquet").write_bytes(b"PAR1nonsense")
    with pytest.raises(ValueError, match="not a readable Parquet file"):
        list(read_shard(tmp_path / "shard-00000.parquet"))


@pytest.mark.parametrize(
    "wrong", [{"series": 0}, {"seed": -1}, {"variates": (3, 2)}, {"lengths": (1, 2)}, {"shard_size": 0}]
)
def test_settings_are_checked(wrong: dict) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be"):
        CorpusSettings(**{"series": 1, **wrong})


def test_an_example_is_a_function_of_its_number(corpus: Path) -> None:
    first, second = (CorpusCrops(corpus, range(3), 200, seed=1) for _ in range(2))
    for index in (17, 3, 0, 9, 25):
        for x, y in zip(first[index], second[index], strict=True):
            assert torch.equal(x, y)
    series, labels = first[4]
    assert series.shape == (1, 200)
    assert labels.shape == (200,)
    assert series.mean().abs() < 1e-5


def test_a_pass_shows_every_series_once(corpus: Path) -> None:
    data = CorpusCrops(corpus, range(3), 10_000, seed=1)
    for turn in range(2):
        seen = {tuple(data[turn * 10 + i][0][0, :5].tolist()) for i in range(10)}
        assert len(seen) == 10
    assert [data._place(0, i) for i in range(10)] != [data._place(1, i) for i in range(10)]


def test_padding_is_no_class(corpus: Path) -> None:
    assert PADDING == IGNORED
    data = CorpusCrops(corpus, range(1), 10_000, random=False)
    batch = collate([data[0], data[1]])
    short = int(batch["lengths"].argmin())
    end = int(batch["lengths"][short])
    assert end < batch["signal"].shape[-1]
    assert (batch["labels"][short, end:] == PADDING).all()
    assert (batch["signal"][short, :, end:] == 0).all()
    assert (batch["labels"][short, :end] >= 0).all()


def test_the_loss_counts_valid_steps_alone(corpus: Path) -> None:
    data = CorpusCrops(corpus, range(1), 10_000, random=False)
    batch = collate([data[0], data[1]])
    module = LabellingModule(TimeRCD(dim=16, step_dim=4, layers=1, heads=2), mask_ratio=0.0).eval()
    loss, terms, _ = module.losses(module.network, batch, None)
    logits = module.network(batch["signal"], batch["lengths"]).logits
    inside = torch.arange(logits.shape[1]) < batch["lengths"][:, None]
    wanted = F.cross_entropy(logits[inside], batch["labels"][inside])
    torch.testing.assert_close(loss, wanted)
    torch.testing.assert_close(terms["anomaly"], wanted.detach())
    assert terms["reconstruction"] == 0


def test_hidden_patches_are_whole_and_never_past_the_end() -> None:
    lengths = torch.tensor([160, 37, 1])
    hidden = hide(lengths, 160, 16, 0.3, torch.Generator().manual_seed(0))
    assert hidden.sum(dim=1).tolist()[0] == 3 * 16
    patches = hidden[0].reshape(-1, 16)
    assert ((patches.sum(dim=1) == 0) | (patches.sum(dim=1) == 16)).all()
    assert not hidden[1, 37:].any()
    assert not hidden[2].any()
    assert torch.equal(hidden, hide(lengths, 160, 16, 0.3, torch.Generator().manual_seed(0)))


def test_batches_of_unequal_variates_are_refused() -> None:
    one, two = (torch.zeros(1, 5), torch.zeros(5)), (torch.zeros(2, 5), torch.zeros(5))
    with pytest.raises(ValueError, match="one number of variates"):
        collate([one, two])


def test_validation_leaves_shards_to_train_on(corpus: Path) -> None:
    with pytest.raises(ValueError, match="valid_shards must be below the 3 shards"):
        CorpusDataModule(str(corpus), valid_shards=3).setup("fit")
    module = CorpusDataModule(str(corpus), valid_shards=1, crop=100)
    module.setup("fit")
    assert len(module.val_dataloader().dataset) == 2
    assert len(module.train_dataloader().dataset) == 8


def test_the_small_recipe_trains_and_exports_a_detector(corpus: Path, tmp_path: Path) -> None:
    from tokenizers_mm.training.run import train

    tiny = [
        f"data.init_args.folder={corpus}",
        "data.init_args.batch_size=2",
        "data.init_args.crop=128",
        "data.init_args.valid_crop=128",
        "model.init_args.network.init_args={dim: 16, step_dim: 4, layers: 1, heads: 2}",
        "model.init_args.warmup_steps=1",
        "trainer.max_steps=2",
        "trainer.val_check_interval=2",
        "trainer.log_every_n_steps=1",
        "trainer.accelerator=cpu",
        "trainer.enable_progress_bar=false",
        "trainer.precision=32-true",
    ]
    folder = train("timercd-small", tiny, output=tmp_path / "run")
    scores = TimeRCD.from_pretrained(folder / "detector").predict(torch.randn(50))
    assert scores.shape == (50,)
    head = (folder / "metrics.csv").read_text().splitlines()[0]
    assert {"train/anomaly", "train/reconstruction", "val/loss", "val/average_precision"} <= set(head.split(","))
    again = train(
        "timercd-small",
        [*tiny, f"model.init_args.init_from={folder / 'detector'}", "trainer.max_steps=1"],
        output=tmp_path / "b",
    )
    assert (again / "detector" / "model.safetensors").is_file()


def test_the_command_writes_a_corpus(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["corpus", str(tmp_path / "c"), "-n", "3", "--seed", "7", "--lengths", "300-400", "--variates", "2-3"])
    assert not left.value.code
    assert "3 series in 1 files" in capsys.readouterr().out
    assert read_settings(tmp_path / "c") == CorpusSettings(3, 7, (2, 3), (300, 400))
    with pytest.raises(SystemExit):
        main(["corpus", str(tmp_path / "d"), "--lengths", "many"])
    assert "--lengths must be a number or a range" in capsys.readouterr().err
