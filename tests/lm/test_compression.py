"""Ids coded as a language model predicts them: files as small as it says, the same tokens back, errors for anything else."""

from __future__ import annotations

import hashlib
import math
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tokenizers_mm import bitstream
from tokenizers_mm.cli import main
from tokenizers_mm.coding import TOTAL
from tokenizers_mm.language_models import load_lm
from tokenizers_mm.lm.compression import LMCoder, whole_weights
from tokenizers_mm.lm.ngram import TokenNGram
from tokenizers_mm.tokens import Tokens, TokenSpec

SPEC = TokenSpec("audio", (40, 1, 7), hop=(10,), sample_rate=100.0)


def tokens_of(seed: int, lengths: Sequence[int]) -> Tokens:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.rand(len(lengths), max(lengths, default=0), 3, generator=generator).pow(3) * torch.tensor([40, 1, 7])
    return Tokens(ids.long(), SPEC, torch.tensor(lengths).reshape(-1, 1), {"size": torch.arange(len(lengths))[:, None]})


class Strange:
    """Predictions from a hash of what came before, last step first; many ids are impossible, which must still be coded."""

    def __init__(self, seed: int) -> None:
        self.seed, self.fingerprint = seed, hashlib.sha256(bytes([seed])).hexdigest()

    num_parameters = 1

    def coding_order(self, spec: TokenSpec, shape: Sequence[int]) -> np.ndarray:
        return np.arange(math.prod(shape) * spec.num_codebooks)[::-1]

    def start(self, spec: TokenSpec, shape: Sequence[int]) -> Strange:
        state = Strange(self.seed)
        state.sizes, state.known = [spec.codebook_sizes[i % 3] for i in self.coding_order(spec, shape)], []
        return state

    def probabilities(self) -> np.ndarray:
        rng = np.random.default_rng([self.seed, zlib.crc32(bytes(self.known))])
        p = rng.random(self.sizes[len(self.known)]) ** 20
        p[p < 1e-3] = 0
        return np.maximum(p, p == p.max()) / np.maximum(p, p == p.max()).sum()

    def push(self, code: int) -> None:
        self.known.append(code)

    def nll(self, tokens: Tokens) -> Tensor:
        raise NotImplementedError


@pytest.fixture(scope="module")
def ngram() -> TokenNGram:
    return TokenNGram.learn([tokens_of(0, (300, 200))], order=3)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 12), max_size=4), st.integers(0, 99), st.booleans())
def test_tokens_come_back(ngram: TokenNGram, lengths: list[int], seed: int, strange: bool) -> None:
    coder = LMCoder(Strange(seed) if strange else ngram)
    tokens = tokens_of(seed, lengths)
    data = bitstream.dumps(tokens, codec="some-card", coder=coder)
    assert bitstream.loads(data, coder=coder) == tokens
    assert 8 * len(coder.encode(tokens)) <= 1.01 * coder.ideal_bits(tokens) + 64


def test_files_take_what_the_model_says(ngram: TokenNGram, tmp_path: Path) -> None:
    heldout = tokens_of(1, (700,))
    heldout.save(tmp_path / "plain.mmt", codec="card")
    bitstream.save(heldout, tmp_path / "coded.mmt", codec="card", coder=LMCoder(ngram))
    bits, ideal = float(ngram.nll(heldout).sum()) / math.log(2), LMCoder(ngram).ideal_bits(heldout)
    assert ideal == pytest.approx(bits, rel=1e-3)
    coded = 8 * len(LMCoder(ngram).encode(heldout))
    assert ideal - 1 <= coded <= 1.01 * ideal + 64
    size = 8 * (tmp_path / "coded.mmt").stat().st_size
    assert coded < size < coded + 8 * 150
    walk = Tokens(torch.arange(600)[None, :, None] % 37, TokenSpec("audio", (40,), hop=(10,), sample_rate=100.0))
    model = TokenNGram.learn([walk], order=2)
    assert 10 * len(LMCoder(model).encode(walk)) < len(bitstream.dumps(walk)) - 30
    assert bitstream.codec_name(tmp_path / "coded.mmt") == "card"


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=2, max_size=50).filter(lambda p: sum(p) > 0))
def test_whole_weights_are_the_probabilities_to_a_unit_or_so(weights: list[float]) -> None:
    p = np.array(weights) / sum(weights)
    found = whole_weights(p, len(p))
    assert found.sum() == TOTAL - len(p)
    assert found.min() >= 0
    assert (found == found.round()).all()
    off = found - p * (TOTAL - len(p))
    off[p.argmax()] = 0
    assert np.abs(off).max() <= 1


@pytest.mark.parametrize(
    ("p", "message"),
    [
        (np.array([0.5, 0.6]), "sum to 1"),
        (np.array([1.5, -0.5]), "0 or more"),
        (np.array([np.nan, 1.0]), "sum of nan"),
        (np.array([0.5, 0.5], dtype=np.float32), "float64"),
        (np.array([0.5, 0.25, 0.25]), r"float64 \[2\]"),
    ],
)
def test_what_are_no_probabilities_is_refused(p: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        whole_weights(p, 2)


def test_codebooks_too_large_for_whole_frequencies_are_refused() -> None:
    spec = TokenSpec("audio", (2**21,), hop=(10,), sample_rate=100.0)
    tokens = Tokens(torch.zeros(1, 3, 1, dtype=torch.long), spec)
    with pytest.raises(ValueError, match="at most 1048576 entries"):
        LMCoder(TokenNGram.learn([tokens], order=1)).encode(tokens)


def test_another_model_is_named_instead_of_garbage(ngram: TokenNGram) -> None:
    data = bitstream.dumps(tokens_of(2, (20,)), coder=LMCoder(ngram, "mine"))
    other = LMCoder(TokenNGram.learn([tokens_of(3, (300,))], order=3), "mine")
    with pytest.raises(bitstream.BitstreamError, match=rf"'mine' \(fingerprint {ngram.fingerprint[:16]}\), got 'mine'"):
        bitstream.loads(data, coder=other)


def test_a_model_that_computes_otherwise_here_is_noticed() -> None:
    """As on a processor that rounds otherwise: the same weights, other predictions."""
    elsewhere, here = Strange(1), Strange(2)
    here.fingerprint = elsewhere.fingerprint
    data = bitstream.dumps(tokens_of(2, (20,)), coder=LMCoder(elsewhere))
    with pytest.raises(bitstream.BitstreamError, match=r"does not compute here|damaged|do not end"):
        bitstream.loads(data, coder=LMCoder(here))


def test_damaged_files_are_refused(ngram: TokenNGram) -> None:
    tokens, coder = tokens_of(4, (30, 5)), LMCoder(ngram)
    data = bitstream.dumps(tokens, coder=coder)
    rng = np.random.default_rng(0)
    for at in rng.integers(len(data), size=40):
        broken = bytearray(data)
        broken[at] ^= 1 << rng.integers(8)
        with pytest.raises(bitstream.BitstreamError):
            bitstream.loads(bytes(broken), coder=coder)
    for size in range(len(data)):
        with pytest.raises(bitstream.BitstreamError):
            bitstream.loads(data[:size], coder=coder)


def test_damage_behind_a_valid_checksum_never_changes_ids(ngram: TokenNGram) -> None:
    tokens, coder = tokens_of(4, (30, 5)), LMCoder(ngram)
    body = bitstream.dumps(tokens, coder=coder)[8:]
    rng = np.random.default_rng(0)
    for at in [*rng.integers(len(body), size=12), *range(len(body) - 8, len(body))]:
        broken = bytearray(body)
        broken[at] ^= 1 << rng.integers(8)
        for change in (bytes(broken), body[:at], body + bytes(3)):
            data = b"mmt\2" + zlib.crc32(change).to_bytes(4, "little") + change
            try:
                found = bitstream.loads(data, coder=coder)
            except bitstream.BitstreamError:
                continue
            assert len(change) == len(body)
            assert torch.equal(found.ids, tokens.ids)


def test_no_folder_is_opened_because_a_file_says_so(ngram: TokenNGram, tmp_path: Path) -> None:
    ngram.save_pretrained(tmp_path / "lm")
    for name in (str(tmp_path / "lm"), "hf:owner/name", "../checkpoints/byte-ngram", "byte-ngram"):
        data = bitstream.dumps(tokens_of(2, (20,)), coder=LMCoder(ngram, name))
        with pytest.raises(bitstream.BitstreamError, match="does not ship: give its folder as lm"):
            bitstream.loads(data)


def test_tokens_save_and_load_with_a_model_by_name(
    ngram: TokenNGram, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens, path, folder = tokens_of(5, (9, 4)), tmp_path / "a.mmt", tmp_path / "lm"
    ngram.save_pretrained(folder)
    tokens.save(path, lm=folder)
    assert Tokens.load(path, lm=folder) == tokens
    with pytest.raises(bitstream.BitstreamError, match=f"'weights:{ngram.fingerprint[:16]}', which does not ship"):
        Tokens.load(path)
    monkeypatch.setattr("tokenizers_mm.registry.data_path", lambda kind: tmp_path)
    tokens.save(path, lm="lm")
    assert Tokens.load(path) == tokens
    with pytest.raises(FileNotFoundError, match="no language model 'other'"):
        tokens.save(path, lm="other")
    (tmp_path / "lm" / "config.json").write_text('{"class": "VQGAN"}')
    with pytest.raises(ValueError, match="must hold a language model, one of"):
        load_lm(tmp_path / "lm")


def test_threads_are_one_while_coding_and_as_before_after(ngram: TokenNGram, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    before = torch.get_num_threads()
    LMCoder(ngram).encode(tokens_of(6, (3,)))
    assert threads == [1, before]


def run(*args: object) -> int | str | None:
    with pytest.raises(SystemExit) as stop:
        main([str(arg) for arg in args])
    return stop.value.code


def test_files_are_encoded_and_decoded_with_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, plain, coded, back = (tmp_path / name for name in ("poem.txt", "plain.mmt", "coded.mmt", "back.txt"))
    text.write_text("A rose is a rose is a rose. " * 20, encoding="utf-8")
    assert run("encode", text, "-c", "bpe-8k", "-o", plain) == 0
    TokenNGram.learn([Tokens.load(plain)], order=4).save_pretrained(tmp_path / "lm")
    assert run("encode", text, "-c", "bpe-8k", "-o", coded, "--lm", tmp_path / "lm") == 0
    assert coded.stat().st_size < plain.stat().st_size - 20
    assert run("decode", coded, "-o", back, "--lm", tmp_path / "lm") == 0
    assert back.read_bytes() == text.read_bytes()
    assert run("decode", coded, "-o", back, "--force") == 1
    assert "does not ship: give its folder as lm" in " ".join(capsys.readouterr().err.split())
