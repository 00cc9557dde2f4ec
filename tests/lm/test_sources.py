"""Sources of sequences and their data module: rows by number, documents apart, tasks as asked, tokens of any codec."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tokenizers_mm.lm.lexinvariant import PADDING
from tokenizers_mm.lm.sources import LookUp, Permute, RepeatedWords, Stream, TokenFiles
from tokenizers_mm.spec import TokenSpec
from tokenizers_mm.tokens import Tokens
from tokenizers_mm.training.sequences import NumberedRows, SequenceDataModule

DOCUMENTS = [torch.arange(0, 9), torch.empty(0, dtype=torch.int64), torch.arange(20, 23), torch.arange(30, 50)]


def seed(value: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(value)


def test_a_row_is_the_same_whenever_it_is_asked_for() -> None:
    stream = Stream(DOCUMENTS)
    rows = NumberedRows(stream, 8, seed=1, tasks=[RepeatedWords(60), Permute(60)], task_share=0.5)
    found = [rows[i] for i in range(40)]
    assert all(torch.equal(rows[i], found[i]) for i in (39, 0, 17))
    assert len({tuple(row.tolist()) for row in found}) > 30
    assert not torch.equal(NumberedRows(stream, 8, seed=2)[0], NumberedRows(stream, 8, seed=1)[0])
    from_stream = [
        row for row in found if row.tolist() in [stream.ids[i : i + 8].tolist() for i in range(len(stream.ids))]
    ]
    assert 10 <= len(from_stream) <= 30


def test_documents_stay_apart_and_rows_are_padded() -> None:
    stream = Stream(DOCUMENTS)
    assert stream.ids.tolist() == [*range(9), PADDING, *range(20, 23), PADDING, *range(30, 50)]
    starts = {int(stream.row(30, seed(i))[0]) for i in range(200)}
    assert starts == {int(i) for i in stream.ids[:5]}  # the last stretch is whole
    assert NumberedRows(stream, 50, seed=0)[3].tolist() == stream.ids.tolist() + [PADDING] * 16
    with pytest.raises(ValueError, match="got none"):
        Stream([torch.empty(0)])


def test_tasks_fill_their_rows() -> None:
    for task, wanted in ((RepeatedWords(9, 2, 4), 30), (LookUp(9, 5), 30), (Permute(9, 3), 30)):
        assert len(task.row(30, seed())[:30]) == wanted
    keys = LookUp(9, 5).row(30, seed())[::2]
    assert len(set(keys[:5].tolist())) == 5
    assert set(keys[5:].tolist()) <= set(keys[:5].tolist())


def test_tokens_of_a_codec_are_sequences(tmp_path: Path) -> None:
    spec = TokenSpec(modality="audio", codebook_sizes=(4, 8), axes=("time",), sample_rate=100, hop=(10,))
    ids = torch.stack([torch.randint(4, (2, 3)), torch.randint(8, (2, 3))], dim=-1)
    Tokens(ids, spec, torch.tensor([[3], [2]])).save(tmp_path / "a.mmt")
    found = TokenFiles(str(tmp_path)).ids.tolist()
    first, second = ([x for a, b in ids[i, :n].tolist() for x in (a, 4 + b)] for i, n in ((0, 3), (1, 2)))
    assert found == [*first, PADDING, *second]
    with pytest.raises(FileNotFoundError, match="none"):
        TokenFiles(str(tmp_path.joinpath("b").mkdir() or tmp_path / "b"))


def test_batches_go_on_where_a_run_stopped() -> None:
    def module(**options: object) -> SequenceDataModule:
        stream = Stream(DOCUMENTS)
        return SequenceDataModule(
            stream, stream, length=6, batch_size=4, examples_per_epoch=12, valid_rows=5, **options
        )  # type: ignore[arg-type]

    whole = [batch["signal"] for batch in module().train_dataloader()]
    assert [row.shape for row in whole] == [(4, 6)] * 3
    stopped = module().train_dataloader()
    stopped.load_state_dict({"examples_seen": 4})
    assert torch.equal(next(iter(stopped))["signal"], whole[1])
    valid = torch.cat([batch["signal"] for batch in module().val_dataloader()])
    assert valid.shape == (5, 6)
    assert not any(torch.equal(valid[:4], batch) for batch in whole)
    with pytest.raises(ValueError, match="task_share"):
        module(task_share=0.5)
