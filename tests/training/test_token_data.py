"""Token data: every item once over all processes, resumed streams that equal whole ones, packing that keeps documents apart."""

from __future__ import annotations

import json
import weakref
from collections import Counter
from collections.abc import Sequence
from functools import partial
from itertools import islice, pairwise
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from tokenizers_mm.lm.stream import Stream
from tokenizers_mm.lm.token_lm import TokenLM
from tokenizers_mm.scale import Item, Origin, ShardReader, ShardWriter, shards
from tokenizers_mm.scale.shards import Group
from tokenizers_mm.tokens import Tokens, TokenSpec
from tokenizers_mm.training import token_data
from tokenizers_mm.training.token_data import TokenDataModule, TokenLoader, TokenSource
from tokenizers_mm.training.token_stream import Batches, Share

SPEECH = TokenSpec("audio", (1000, 1000), hop=(320,), sample_rate=16000)
IMAGE = TokenSpec("image", (1000,), axes=("height", "width"), hop=(16, 16), channels=3)
EEG = TokenSpec("eeg", (1000,), axes=("channel", "time"), hop=(1, 200), sample_rate=200, channels=2)
PAD, BOS, FIRST = 0, 1, 100


class Fake:
    """Two lanes: a begin with source and label, then the codes, 100 more than they are."""

    pad, lanes = PAD, 2

    def document(self, segments: Sequence[tuple[str, Tokens]], label: int | None = None) -> Tensor:
        rows = [torch.tensor([[BOS, 2 + (label if label is not None else -1)]])]
        for name, tokens in segments:
            rows.append(torch.tensor([[10 + ord(name[0]) - ord("a"), 0]]))
            rows.append(tokens.ids[0, :, [0, -1]] + FIRST)
        return torch.cat(rows)


def write(folder: Path, sizes: Sequence[int], spec: TokenSpec = SPEECH, labels: Sequence = (), first: int = 0) -> Path:
    """Item i has ``sizes[i]`` frames, whose codes begin with i and count up in the second column."""
    with ShardWriter(folder, Origin("toy", spec), shard_items=6) as writer:
        for i, size in enumerate(sizes):
            shape = {1: (size,), 2: (2, size)}[len(spec.axes)]
            ids = torch.arange(size).repeat(shape[0] if len(shape) > 1 else 1)[:, None].repeat(1, spec.num_codebooks)
            if spec is SPEECH:
                ids[:, 0] = first + i
            tokens = Tokens(ids[None], spec, torch.tensor([shape]), {"size": torch.tensor([[size]])})
            writer.write(Item(f"item-{first + i}", tokens, labels[i] if labels else None))
    return folder


@pytest.fixture(autouse=True)
def _small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "_GROUP_ITEMS", 2)


def module(*sources: TokenSource | Path, setup: bool = True, **options) -> TokenDataModule:
    named = [s if isinstance(s, TokenSource) else TokenSource("a", str(s)) for s in sources]
    made = TokenDataModule(Fake(), named, **{"length": 12, "batch_size": 2, "buffer": 2, **options})
    if setup:
        made.setup()
    return made


def documents(signal: Tensor) -> list[Tensor]:
    """Documents of a batch, in the order of rows."""
    found = []
    for row in signal:
        begins = [*(row[:, 0] == BOS).nonzero()[:, 0].tolist(), len(row)]
        found += [row[a:b] for a, b in pairwise(begins)]
    return [document[document[:, 0] != PAD] for document in found]


def numbers(signal: Tensor) -> list[int]:
    """Which items of speech are in a batch."""
    return [int(document[2, 0]) - FIRST for document in documents(signal)]


def taken(made: TokenDataModule, share: Share, count: int, part: str = "train") -> list[int]:
    """Numbers of the first documents of a share."""
    source = made._documents(part, endless=part == "train")(share)
    return [int(source.next()[2, 0]) - FIRST for _ in range(count)]


@pytest.mark.parametrize("streams", [1, 2, 3, 7])
def test_every_item_comes_once_a_pass_over_all_processes(streams: int, tmp_path: Path) -> None:
    made = module(write(tmp_path, [3] * 20))
    found: list[list[int]] = [[], []]
    for number in range(streams):
        source = made._documents("train", endless=True)(Share(number, streams))
        for turn in (0, 1):
            source.items[0].turn, source.items[0].position = turn, 0
            found[turn] += [int(source.next()[2, 0]) - FIRST for _ in range(source.items[0].left)]
    assert sorted(found[0]) == sorted(found[1]) == list(range(20))
    assert found[0] != found[1]
    assert found[0] != sorted(found[0])


def test_order_depends_on_the_seed_alone(tmp_path: Path) -> None:
    folder = write(tmp_path, [3] * 20)
    orders = [taken(module(folder, seed=seed), Share(), 40) for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]


def test_few_row_groups_are_kept_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = module(write(tmp_path, [3] * 36), buffer=3)._documents("train", endless=True)(Share())
    alive: list[weakref.ref] = []

    def group(self: ShardReader, number: int, real=ShardReader.group) -> Group:
        made = real(self, number)
        alive.append(weakref.ref(made))
        return made

    monkeypatch.setattr(ShardReader, "group", group)
    for count in range(72):
        source.next()
        assert len(alive) == 3 * (count // 6 + 1)  # each is read once a pass
        assert sum(ref() is not None for ref in alive) <= 2 * 3


def test_rows_hold_whole_documents_and_padding_after_them(tmp_path: Path) -> None:
    made = module(write(tmp_path, [1, 5, 3, 9, 2, 7, 4, 10, 6, 8] * 3))
    batches = [batch["signal"] for batch in islice(made.train_dataloader(), 20)]
    assert {tuple(batch.shape) for batch in batches} == {(2, 12, 2)}
    per_row = Counter()
    for batch in batches:
        for row in batch:
            real = row[:, 0] != PAD
            assert not real[int(real.sum()) :].any()
            per_row[int((row[:, 0] == BOS).sum())] += 1
        for document in documents(batch):
            size = len(document) - 2
            assert document[2:, 1].tolist() == list(range(FIRST, FIRST + size))
            assert size == [1, 5, 3, 9, 2, 7, 4, 10, 6, 8][(int(document[2, 0]) - FIRST) % 10]
    assert max(per_row) > 1


def test_a_document_a_row(tmp_path: Path) -> None:
    made = module(write(tmp_path, [1, 2, 3] * 4), packing="single", batch_size=3)
    for batch in islice(made.train_dataloader(), 6):
        assert [len(documents(row[None])) for row in batch["signal"]] == [1, 1, 1]


def streamed(loader: TokenLoader, count: int) -> list[Tensor]:
    found: list[Tensor] = []
    while len(found) < count:
        found += [batch["signal"] for batch in islice(loader, count - len(found))]
    return found


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_stream_equals_the_whole_one(workers: int, tmp_path: Path) -> None:
    speech, image = write(tmp_path / "a", [3, 1, 30, 4, 8] * 2), write(tmp_path / "b", [2, 1, 3, 9], IMAGE)
    sources = TokenSource("a", str(speech), 2.0), TokenSource("b", str(image), 1.0)
    make = partial(module, *sources, segments_per_document=2, batches_per_epoch=7, num_workers=workers)
    whole = streamed(make().train_dataloader(), 12)
    assert make().train_dataloader().skipped == 0
    for stop in (1, 7, 8) if workers == 0 else (3,):
        loader = make().train_dataloader()
        streamed(loader, stop)
        state = json.loads(json.dumps(loader.state_dict()))  # plain values: a checkpoint needs no pickle
        loader = make().train_dataloader()
        loader.load_state_dict(state)
        assert all(torch.equal(a, b) for a, b in zip(whole[stop:], streamed(loader, 12 - stop), strict=True)), stop


def test_ranks_read_different_items_and_resume_as_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, found, states = write(tmp_path, [10] * 20), [], {}  # a document a row
    for rank in (0, 1):
        monkeypatch.setattr(token_data, "world", lambda rank=rank: (rank, 2))
        loader = module(folder, num_workers=0).train_dataloader()
        found += [n for batch in islice(loader, 4) for n in numbers(batch["signal"])]
        states[rank] = loader.states
    assert len(found) == len(set(found)) == 16
    monkeypatch.setattr(token_data, "world", lambda: (0, 1))
    with pytest.raises(ValueError, match="2 ranks of 1 workers; resume with as many, got 1 of 1"):
        module(folder).train_dataloader().load_state_dict({"batches": 4, "ranks": [states[0], states[1]]})


class Recorder(LightningModule):
    """Remembers the batches that it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.seen = torch.nn.Parameter(torch.zeros(1)), []

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        self.seen.append(batch["signal"].clone())
        return self.weight.sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class SaveAt(Callback):
    def __init__(self, step: int, path: Path) -> None:
        self.step, self.path = step, path

    def on_train_batch_end(self, trainer, *_) -> None:
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)
            trainer.should_stop = True


def trainer(folder: Path, **options) -> Trainer:
    quiet = {
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
    }
    return Trainer(accelerator="cpu", max_steps=11, default_root_dir=folder, **quiet, **options)


@pytest.mark.parametrize("stop", [3, 4, 6])  # mid-epoch, an epoch's end, mid-epoch later
def test_a_resumed_training_sees_the_batches_of_one_that_never_stopped(stop: int, tmp_path: Path) -> None:
    make = partial(module, write(tmp_path / "a", [3, 1, 30, 4, 8] * 4), setup=False, batches_per_epoch=4)
    whole, first, second = Recorder(), Recorder(), Recorder()
    trainer(tmp_path).fit(whole, make())
    trainer(tmp_path, callbacks=[SaveAt(stop, tmp_path / "a.ckpt")]).fit(first, make())
    assert len(first.seen) == stop
    trainer(tmp_path).fit(second, make(), ckpt_path=tmp_path / "a.ckpt", weights_only=True)
    assert len(whole.seen) == 11
    assert all(torch.equal(a, b) for a, b in zip(whole.seen, first.seen + second.seen, strict=True))


def test_validation_has_every_item_once_in_order(tmp_path: Path) -> None:
    speech, other = write(tmp_path / "a", [3, 1, 5, 4, 8, 2, 2]), write(tmp_path / "b", [2] * 5, first=50)
    train = TokenSource("a", str(speech))
    made = module(train, valid=[train, TokenSource("b", str(other))])
    found = [n for batch in made.val_dataloader() for n in numbers(batch["signal"])]
    assert sorted(found) == [*range(7), *range(50, 55)]
    order = taken(made, Share(), 12, "valid")
    assert [n for n in order if n < 50] == list(range(7))
    assert [n for n in order if n >= 50] == list(range(50, 55))
    shares = [Batches(made._documents("valid", endless=False), Share(rank, 2)) for rank in (0, 1)]
    assert sorted(n for share in shares for _, signal, _ in share for n in numbers(signal)) == sorted(found)
    assert module(train).val_dataloader() == []


def test_sources_are_drawn_by_weight_and_take_turns_in_a_document(tmp_path: Path) -> None:
    paths = {name: write(tmp_path / name, [1] * 8) for name in "abc"}
    sources = [TokenSource(n, str(p), w) for (n, p), w in zip(paths.items(), (6.0, 3.0, 1.0), strict=True)]
    single = module(*sources)._documents("train", endless=True)(Share())
    counts = Counter(chr(int(single.next()[1, 0]) - 10 + ord("a")) for _ in range(200))
    assert all(abs(counts[n] / 200 - share) < 0.1 for n, share in (("a", 0.6), ("b", 0.3), ("c", 0.1)))
    joint = module(*sources, segments_per_document=4)._documents("train", endless=True)(Share())
    for _ in range(50):
        tags = joint.next()[1::2, 0].tolist()
        assert len(tags) == 4
        assert all(a != b for a, b in pairwise(tags))


def test_long_documents_are_cut_along_time_to_what_fits(tmp_path: Path) -> None:
    made = module(write(tmp_path / "a", [40] * 4))._documents("train", endless=True)(Share())
    starts = set()
    for _ in range(40):
        ids = made.next()
        assert len(ids) == 12  # a begin, a tag, ten frames
        assert ids[2:, 1].diff().tolist() == [1] * 9
        starts.add(int(ids[2, 1]) - FIRST)
    assert min(starts) < 6
    assert max(starts) > 24
    eeg = module(write(tmp_path / "b", [40] * 4, EEG))._documents("train", endless=True)(Share())
    ids = eeg.next()[2:, 0]
    assert torch.equal(ids[:5], ids[5:])  # five moments of both channels
    assert ids[:5].diff().tolist() == [1] * 4


def test_what_cannot_be_cut_is_left_out_and_counted(tmp_path: Path) -> None:
    image = write(tmp_path / "a", [2, 40, 3, 50], IMAGE)
    source = module(image)._documents("train", endless=True)(Share())
    assert {len(source.next()) for _ in range(8)} == {6, 8}
    assert source.skipped in range(6, 11)
    speech = write(tmp_path / "b", [2, 40])
    assert len(module(speech, long="skip")._documents("train", endless=True)(Share()).next()) == 4
    with pytest.raises(ValueError, match=r"document of item-1 has 42 steps, length is 12"):
        list(islice(module(speech, long="error").train_dataloader(), 2))
    with pytest.raises(ValueError, match="of a whole pass none fits into 1 steps"):
        next(iter(module(speech, length=1).train_dataloader()))


def test_classes_are_numbers_or_names_in_the_order_of_the_alphabet(tmp_path: Path) -> None:
    named = module(write(tmp_path / "a", [2] * 4, labels=["dog", "ant", None, "cat"]), labels=True)
    assert named.classes == ["ant", "cat", "dog"]
    source = named._documents("train", endless=False)(Share())
    assert [int(source.next()[0, 1]) - 2 for _ in range(4)] == [2, 0, -1, 1]
    numbered = module(write(tmp_path / "b", [2] * 2, labels=[7, 0]), labels=True)
    source = numbered._documents("train", endless=False)(Share())
    assert [int(source.next()[0, 1]) - 2 for _ in range(2)] == [7, 0]
    mixed = write(tmp_path / "c", [2] * 2, labels=[7, "cat"])
    with pytest.raises(ValueError, match="all names or all numbers"):
        module(mixed, labels=True)
    assert module(mixed).classes == []


def test_sources_must_hold_one_codecs_tokens_and_items_enough(tmp_path: Path) -> None:
    speech = write(tmp_path / "a", [3] * 2)
    with pytest.raises(ValueError, match="source 'a' has no shards"):
        module(tmp_path / "none")
    with pytest.raises(ValueError, match="fewer items than the 3 processes"):
        module(speech, num_workers=3)
    with pytest.raises(ValueError, match="weight of source 'a' must be positive"):
        module(TokenSource("a", str(speech), 0.0))
    other = write(tmp_path / "b", [3], IMAGE)
    (other / "tokens-00000.parquet").rename(speech / "tokens-00009.parquet")
    with pytest.raises(ValueError, match=r"tokens-00009.parquet holds tokens of 'toy' with spec"):
        module(speech)
    for name, value in (("length", 0), ("packing", "tight"), ("long", "cut"), ("buffer", 0)):
        with pytest.raises(ValueError, match=f"{name} must be"):
            module(speech, setup=False, **{name: value})


def test_a_language_model_learns_from_shards(tmp_path: Path) -> None:
    streams = [Stream("speech", SPEECH, "delay"), Stream("image", IMAGE, grid=(2, 3))]
    model = TokenLM([stream.to_dict() for stream in streams], classes=2, dim=32, layers=1, heads=2)
    speech, image = write(tmp_path / "a", [30] * 4, labels=[0, 1, 0, 1]), write(tmp_path / "b", [3] * 4, IMAGE)
    sources = [TokenSource("speech", str(speech)), TokenSource("image", str(image))]
    made = TokenDataModule(model.vocabulary, sources, length=40, batch_size=2, segments_per_document=2, labels=True)
    made.setup()
    batch = next(iter(made.train_dataloader()))["signal"]
    assert batch.shape == (2, 40, model.vocabulary.lanes)
    for row in batch:
        for ids in documents(row[None]):
            assert {name for name, _ in model.vocabulary.segments(ids)} == {"speech", "image"}
    assert torch.isfinite(model.loss(batch))
