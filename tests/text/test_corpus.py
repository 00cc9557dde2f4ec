"""Rows of documents: whole characters, every validation byte once, the same bytes for every model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tokenizers_mm.text.corpus import Pieces, TextDataModule, TextSource, Windows, row
from tokenizers_mm.text.rows import END, PAD, signal_of

DOCUMENTS = ["First line, é.\nSecond 日本語 line\n\nlast".encode(), b"x" * 50, "ü".encode() * 30, b"short"]


@pytest.mark.parametrize("length", [8, 13, 64])
def test_pieces_hold_every_byte_once(length: int) -> None:
    pieces = Pieces(DOCUMENTS, length)
    rows = [pieces[i] for i in range(len(pieces))]
    assert b"".join(bytes(r[r >= 0].tolist()) for r in rows) == b"".join(d + bytes([END]) for d in DOCUMENTS)
    for r in rows:
        text = bytes(r[r >= 0].tolist()).rstrip(bytes([END]))
        assert text.decode("utf-8") is not None
        assert len(r) == length


def test_windows_begin_lines_and_cut_no_character() -> None:
    windows = Windows(DOCUMENTS, 16, seed=3)
    lines = {line for d in DOCUMENTS for line in d.split(b"\n")}
    for i in range(2 * len(windows)):
        values = windows[i]
        first = bytes(values[: int((values < 0).long().argmax()) if (values < 0).any() else 16].tolist())
        first.rstrip(bytes([END])).decode("utf-8")
        begin = first.split(b"\n")[0].rstrip(bytes([END]))
        assert any(line.startswith(begin) for line in lines)
    order = [bytes(w[w >= 0].tolist()) for w in (windows[i] for i in range(2 * len(windows)))]
    turns = [sorted(order[: len(windows)]), sorted(order[len(windows) :])]
    assert turns[0] == turns[1]


def test_rows_are_cut_before_characters() -> None:
    values = np.array([*"aé日".encode()], dtype=np.int16)
    kept = [bytes(x for x in row(values, n).tolist() if x >= 0).decode() for n in (1, 2, 3, 4, 5, 6)]
    assert kept == ["a", "a", "aé", "aé", "aé", "aé日"]


def test_marks_in_bytes_are_refused() -> None:
    with pytest.raises(ValueError, match="0xc0 at 1"):
        signal_of([b"a\xc0"])
    assert signal_of(["", "ab"]).tolist() == [[END, PAD, PAD], [97, 98, END]]


def test_a_folder_by_names_and_documents_by_split(tmp_path: Path) -> None:
    for code in ("aa", "bb"):
        (tmp_path / f"{code}.txt").write_text(f"{code} one\n{code} two\n{code} three\n")
    (tmp_path / "docs.tsv").write_text("document\tsplit\nd1\ttrain\nd1\ttrain\nd2\tvalid\n")
    assert TextSource(str(tmp_path), "train", ["aa"]).documents() == [b"aa one\naa two"]
    assert len(TextSource(str(tmp_path), "valid").documents()) == 2
    with pytest.raises(FileNotFoundError, match="called \\['cc'\\]"):
        TextSource(str(tmp_path), "train", ["cc"]).documents()
    data = TextDataModule(
        TextSource(str(tmp_path), "train"), TextSource(str(tmp_path), "valid"), length=16, batch_size=2
    )
    data.setup("fit")
    one, two = (next(iter(data.train_dataloader()))["signal"] for _ in "ab")
    assert torch.equal(one, two)
    assert one.shape == (2, 16)
    assert next(iter(data.val_dataloader()))["signal"].shape == (2, 16)
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        TextDataModule(TextSource("."), TextSource("."), batch_size=0)
