"""Tokens and TokenSpec: every modality's layout fits without a special case, and bad input names itself."""

from __future__ import annotations

import json
import math
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tokenizers_mm.tokens import Tokens, TokenSpec

VAR_SIDES = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)


def ids(batch: int, steps: int, sizes: tuple[int, ...], seed: int = 0) -> Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(np.stack([rng.integers(0, size, (batch, steps)) for size in sizes], axis=-1))


def wavtokenizer(lengths: tuple[int, ...] = (75,)) -> Tokens:
    spec = TokenSpec("audio", (4096,), hop=(320,), sample_rate=24000)
    size = torch.tensor(lengths)[:, None]
    return Tokens(ids(len(lengths), max(lengths), (4096,)), spec, size, side={"size": size * 320})


def residual() -> Tokens:
    spec = TokenSpec("audio", (1024,) * 8, hop=(320,), sample_rate=24000, scalable="columns")
    return Tokens(ids(2, 75, spec.codebook_sizes), spec, side={"size": torch.full((2, 1), 24000)})


def snac() -> Tokens:
    """Three levels at 12, 23 and 47 Hz: one step holds one coarse code, two middle ones and four fine ones."""
    spec = TokenSpec("audio", (4096,) * 7, hop=(2048,), sample_rate=24000, levels=(0, 1, 1, 2, 2, 2, 2))
    return Tokens(ids(1, 12, spec.codebook_sizes), spec)


def image() -> Tokens:
    """A square and a wide image in one batch, row-major."""
    spec = TokenSpec("image", (16384,), axes=("height", "width"), hop=(16, 16), channels=3)
    size = torch.tensor([[256, 256], [128, 320]])
    return Tokens(ids(2, 256, (16384,)), spec, torch.tensor([spec.grid(s.tolist()) for s in size]), {"size": size})


def var() -> Tokens:
    scales = tuple(side * side for side in VAR_SIDES)
    spec = TokenSpec("image", (4096,), axes=("scale",), scales=scales, scalable="scales", channels=3)
    return Tokens(ids(2, 680, (4096,)), spec, side={"size": torch.full((2, 2), 256)})


def titok() -> Tokens:
    spec = TokenSpec("image", (8192,), axes=("rank",), scalable="steps", channels=3)
    return Tokens(ids(2, 32, (8192,)), spec, side={"size": torch.full((2, 2), 256)})


def eeg() -> Tokens:
    """19 and 4 electrodes, 10 and 3 seconds at 200 Hz: one row of tokens per electrode."""
    spec = TokenSpec("eeg", (8192,), axes=("channel", "time"), hop=(1, 200), sample_rate=200, channels=0)
    size = torch.tensor([[19, 2000], [4, 600]])
    return Tokens(ids(2, 190, (8192,)), spec, torch.tensor([spec.grid(s.tolist()) for s in size]), {"size": size})


def series() -> Tokens:
    spec = TokenSpec("timeseries", (256,), axes=("channel", "time"), hop=(1, 4), channels=0)
    shapes = torch.tensor([[7, 24], [1, 24]])
    side = {"mean": torch.randn(2, 7), "deviation": torch.rand(2, 7), "size": torch.tensor([[7, 96], [1, 96]])}
    return Tokens(ids(2, 168, (256,)), spec, shapes, side)


def table() -> Tokens:
    """Two weeks of one table: its columns have names, and each week its first hour."""
    spec = TokenSpec("timeseries", (256,), axes=("channel", "time"), hop=(1, 4), channels=0)
    hour = 3_600_000_000_000
    clock = torch.tensor([[1_700_000_000_000_000_000, hour], [1_700_000_000_000_000_000 + 168 * hour, hour]])
    return Tokens(ids(2, 84, (256,)), spec, torch.tensor([[2, 42]] * 2), {"clock": clock}, names=("load", "Öl °C"))


def text() -> Tokens:
    return Tokens(ids(3, 20, (50257,)), TokenSpec("text", (50257,), axes=("token",)), torch.tensor([[20], [3], [0]]))


def words() -> Tokens:
    """Bytes of "to be" and "x": how many bytes each word has is what decode needs besides them."""
    padded = torch.zeros(2, 5, 1, dtype=torch.long)
    padded[0, :, 0], padded[1, :1, 0] = torch.tensor(list(b"to be")), ord("x")
    side = {"word_lengths": torch.tensor([[3, 2], [1, 0]])}
    return Tokens(padded, TokenSpec("text", (256,), axes=("token",)), torch.tensor([[5], [1]]), side)


def dynamic() -> Tokens:
    """Ids of a vocabulary of bytes and merges that was made for this batch and travels with it."""
    spec = TokenSpec("text", (2**20,), axes=("token",))
    return Tokens(ids(2, 9, (300,)), spec, shared={"vocabulary": torch.randint(0, 256, (44, 2), dtype=torch.int32)})


MAPPINGS = [wavtokenizer, residual, snac, image, var, titok, eeg, series, table, text, words, dynamic]


# --- how each system maps


@pytest.mark.parametrize("make", MAPPINGS)
def test_every_mapping_survives_indexing_joining_moving_and_its_spec_json(make) -> None:
    tokens = make()
    assert Tokens.cat([tokens[i] for i in range(len(tokens))]) == tokens
    assert tokens.to("cpu") == tokens
    assert TokenSpec.from_dict(json.loads(json.dumps(tokens.spec.to_dict()))) == tokens.spec
    assert not tokens.ids[~tokens.mask].any()
    assert torch.equal(tokens.bits, tokens.lengths.double() * tokens.spec.bits_per_step)


@pytest.mark.parametrize("make", MAPPINGS)
def test_every_mapping_survives_a_file(make, tmp_path) -> None:
    tokens = make()
    tokens.save(tmp_path / "tokens.mmt")
    assert Tokens.load(tmp_path / "tokens.mmt") == tokens


def test_wavtokenizer_costs_75_tokens_of_12_bits_a_second() -> None:
    tokens = wavtokenizer((75, 150))
    assert tokens.spec.frame_rate == tokens.spec.token_rate == 75
    assert tokens.spec.bitrate == 900
    assert tokens.bitrate.tolist() == [900, 900]
    assert tokens.bits.tolist() == [900, 1800]


def test_residual_prefix_is_the_cheaper_codec() -> None:
    tokens = residual()
    assert tokens.spec.bitrate == 6000
    cheap = tokens.prefix(columns=2)
    assert cheap.spec.bitrate == 1500
    assert torch.equal(cheap.codes, tokens.codes[:, :2])
    assert tokens.prefix(columns=8) == tokens
    assert cheap.spec == tokens.spec.prefix(2) == TokenSpec.from_dict(cheap.spec.to_dict())


def test_snac_levels_unfold_to_their_own_rates() -> None:
    tokens = snac()
    columns = {level: [q for q, of in enumerate(tokens.spec.levels) if of == level] for level in range(3)}
    assert [tokens.ids[..., columns[level]].reshape(1, -1).shape[1] for level in range(3)] == [12, 24, 48]
    assert tokens.spec.token_rate == pytest.approx(7 * 24000 / 2048)


def test_image_grids_of_different_sizes_keep_their_rows() -> None:
    tokens = image()
    assert tokens.shapes.tolist() == [[16, 16], [8, 20]]
    assert tokens.shape == (16, 20)
    assert torch.equal(tokens.grid(1)[3, 7], tokens.ids[1, 3 * 20 + 7])
    assert tokens[1].ids.shape == (1, 160, 1)


@pytest.mark.parametrize("scales", range(1, 11))
def test_any_prefix_of_var_scales_is_tokens(scales: int) -> None:
    tokens = var()
    cut = tokens.prefix(scales=scales)
    assert tokens.spec.steps((256, 256)) == 680
    assert cut.lengths.tolist() == [sum(side * side for side in VAR_SIDES[:scales])] * 2
    assert torch.equal(cut.ids, tokens.ids[:, : cut.ids.shape[1]])
    assert cut.spec == tokens.spec


@pytest.mark.parametrize("steps", [1, 7, 32])
def test_any_prefix_of_ordered_steps_is_tokens(steps: int) -> None:
    cut = titok().prefix(steps=steps)
    assert cut.shapes.tolist() == [[steps], [steps]]
    assert torch.equal(cut.ids, titok().ids[:, :steps])


def test_a_prefix_of_steps_leaves_shorter_items_whole() -> None:
    tokens = Tokens(
        ids(2, 32, (8,)), TokenSpec("image", (8,), axes=("rank",), scalable="steps"), torch.tensor([[32], [5]])
    )
    assert tokens.prefix(steps=9).lengths.tolist() == [9, 5]


def test_eeg_rows_are_electrodes() -> None:
    tokens = eeg()
    assert tokens.shapes.tolist() == [[19, 10], [4, 3]]
    assert tokens.grid(1).shape == (4, 3, 1)
    assert tokens.spec.bitrate == 13  # of one electrode
    assert tokens.bitrate.tolist() == [19 * 13, 4 * 13]


def test_side_tensors_follow_their_items_and_shared_ones_stay() -> None:
    tokens = series()
    assert torch.equal(tokens[1].side["mean"], tokens.side["mean"][1:])
    assert torch.equal(words()[0].side["word_lengths"], torch.tensor([[3, 2]]))
    assert dynamic()[1].shared["vocabulary"].shape == (44, 2)


# --- labels


def test_names_that_agree_survive_joining_and_others_are_dropped() -> None:
    tokens = table()
    assert tokens[1].names == tokens.to("cpu").names == Tokens.cat([tokens[0], tokens[1]]).names == ("load", "Öl °C")
    renamed = replace(tokens, names=("load", "oil"))
    assert renamed != tokens
    assert Tokens.cat([tokens, renamed]).names is None
    assert Tokens.cat([tokens, replace(tokens, names=None)]).names is None


def test_clocks_are_kept_where_all_items_have_one() -> None:
    tokens = table()
    assert torch.equal(Tokens.cat([tokens[1], tokens[0]]).side["clock"], tokens.side["clock"].flip(0))
    assert "clock" not in Tokens.cat([tokens, replace(tokens, side={})]).side


@pytest.mark.parametrize(
    ("names", "error", "words"),
    [
        (("load",), ValueError, "got 1 for 2 channels"),
        (["load", "oil"], TypeError, "tuple of strings"),
        (("load", 3), TypeError, "tuple of strings"),
        (("load", "\ud800"), ValueError, "valid Unicode"),
    ],
)
def test_names_must_name_every_channel(names: object, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        replace(table(), names=names)
    with pytest.raises(ValueError, match="got 2 for 1 channels"):
        replace(wavtokenizer(), names=("left", "right"))
    assert replace(wavtokenizer(), names=("mono",)).names == ("mono",)


# --- TokenSpec


@given(st.integers(0, 10**9), st.integers(1, 10**6))
def test_steps_cover_the_signal_and_no_more(size: int, hop: int) -> None:
    steps = TokenSpec("audio", (2,), hop=(hop,)).steps(size)
    assert (steps - 1) * hop < size <= steps * hop or steps == size == 0


def test_grid_asks_for_one_size_per_axis() -> None:
    spec = image().spec
    assert spec.grid((100, 33)) == (7, 3)
    for size in (5, (5,), (5, -1)):
        with pytest.raises(ValueError, match="size must give 2"):
            spec.grid(size)
    with pytest.raises(ValueError, match="content"):
        text().spec.steps(10)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"modality": ""}, "modality"),
        ({"codebook_sizes": ()}, "codebook_sizes"),
        ({"codebook_sizes": (0,)}, "codebook_sizes"),
        ({"codebook_sizes": (2**62 + 1,)}, "codebook_sizes"),
        ({"axes": ()}, "axes"),
        ({"axes": ("time", "time")}, "axes"),
        ({"hop": (1, 2)}, "hop"),
        ({"hop": (0,)}, "hop"),
        ({"sample_rate": 0}, "sample_rate"),
        ({"sample_rate": math.inf}, "sample_rate"),
        ({"sample_rate": math.nan}, "sample_rate"),
        ({"channels": -1}, "channels"),
        ({"levels": (0,)}, "levels"),
        ({"levels": (1, 0)}, "levels"),
        ({"levels": (-1, 0)}, "levels"),
        ({"scales": (1, 0)}, "scales"),
        ({"scalable": "bits"}, "scalable"),
        ({"scalable": "scales"}, "scales"),
        ({"axes": ("height", "width"), "scalable": "steps"}, "single axis"),
        ({"axes": ("height", "width"), "scales": (1, 4)}, "single axis"),
    ],
)
def test_contradictions_in_a_spec_are_refused(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TokenSpec(**{"modality": "audio", "codebook_sizes": (8, 8), **fields})


@pytest.mark.parametrize(
    "fields",
    [
        {"codebook_sizes": 8},
        {"codebook_sizes": (8.0,)},
        {"codebook_sizes": "88"},
        {"axes": "time"},
        {"axes": (1,)},
        {"hop": 320},
        {"hop": (320.5,)},
        {"sample_rate": "16000"},
        {"channels": 1.5},
        {"levels": None},
    ],
)
def test_fields_of_the_wrong_type_are_refused_by_name(fields: dict) -> None:
    with pytest.raises(TypeError, match=next(iter(fields))):
        TokenSpec(**{"modality": "audio", "codebook_sizes": (8,), **fields})
    with pytest.raises(ValueError, match=next(iter(fields))):
        TokenSpec.from_dict({"modality": "audio", "codebook_sizes": (8,), **fields})


def test_from_dict_names_unknown_and_missing_keys() -> None:
    with pytest.raises(ValueError, match="colour"):
        TokenSpec.from_dict({"modality": "audio", "codebook_sizes": [8], "colour": "red"})
    with pytest.raises(ValueError, match="codebook_sizes"):
        TokenSpec.from_dict({"modality": "audio"})


def test_a_spec_is_frozen_and_takes_numpy_numbers() -> None:
    fields = {"codebook_sizes": np.array([8, 8]), "hop": [np.int32(320)], "sample_rate": np.float32(16000)}
    spec = TokenSpec.from_dict({"modality": "audio", **fields})
    assert spec == TokenSpec("audio", (8, 8), hop=(320,), sample_rate=16000.0)
    json.dumps(spec.to_dict())
    with pytest.raises(FrozenInstanceError):
        spec.channels = 2  # type: ignore[misc]


def test_fingerprints_are_equal_where_specs_are() -> None:
    spec = TokenSpec("audio", (8,), hop=(320,), sample_rate=16000)
    assert spec.fingerprint == replace(spec, sample_rate=16000.0, levels=(0,)).fingerprint
    others: list[dict] = [
        {"modality": "eeg"},
        {"codebook_sizes": (9,)},
        {"hop": (160,)},
        {"sample_rate": 8000},
        {"channels": 2},
    ]
    others += [{"axes": ("token",)}, {"levels": (1,)}, {"scales": (1, 2)}, {"scalable": "steps"}]
    assert len({spec.fingerprint, *(replace(spec, **fields).fingerprint for fields in others)}) == 1 + len(others)


def test_rates_are_none_where_there_is_no_time() -> None:
    spec = image().spec
    assert spec.frame_rate is spec.token_rate is spec.bitrate is None
    with pytest.raises(ValueError, match="no time axis"):
        _ = image().bitrate
    assert image().bits.tolist() == [256 * 14, 160 * 14]


# --- Tokens


@settings(deadline=None)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=5), st.integers(0, 100))
def test_padding_neither_counts_nor_stays(lengths: list[int], junk: int) -> None:
    """Whatever lies in the padding, the tokens are equal, and padding reads as 0."""
    spec, raw = TokenSpec("text", (50, 3), axes=("token",)), ids(len(lengths), 6, (50, 3))
    a = Tokens(raw, spec, torch.tensor(lengths)[:, None])
    dirty = torch.where(a.mask[..., None], raw, junk)
    b = Tokens(torch.cat([dirty, torch.full((len(lengths), 2, 2), junk)], dim=1), spec, a.shapes)
    assert a == b
    assert a.mask.sum() == sum(lengths)
    assert int(b.ids[~b.mask].sum()) == 0
    assert [len(item.ids[0]) for item in b] == lengths


@pytest.mark.parametrize("index", [1, -1, np.int64(1), torch.tensor(1), [1], slice(1, 2), torch.tensor([False, True])])
def test_indexing_gives_a_batch_with_its_padding_trimmed(index) -> None:
    tokens = wavtokenizer((75, 10))
    assert tokens[index].ids.shape == (1, 10, 1)
    assert torch.equal(tokens[index].ids[0], tokens.ids[1, :10])
    assert tokens[index].side["size"].tolist() == [[3200]]


def test_picking_reorders_and_repeats_and_may_be_empty() -> None:
    tokens = wavtokenizer((5, 10, 7))
    assert tokens[[2, 0, 2]].lengths.tolist() == [7, 5, 7]
    assert len(tokens[[]]) == len(tokens[:0]) == 0
    assert tokens[:0].shape == (0,)
    with pytest.raises(IndexError, match="item 3 of a batch of 3"):
        tokens[3]


@pytest.mark.parametrize(
    "other",
    [
        {"ids": torch.zeros(2, 4, 1, dtype=torch.long)},
        {"shapes": torch.tensor([[4], [3]])},
        {"side": {}},
        {"side": {"x": torch.tensor([1, 3])}},
        {"shared": {"v": torch.zeros(1)}},
        {"spec": TokenSpec("text", (9,), axes=("time",))},
    ],
)
def test_equality_sees_every_difference(other: dict) -> None:
    tokens = Tokens(torch.ones(2, 4, 1, dtype=torch.long), TokenSpec("text", (8,)), side={"x": torch.tensor([1, 2])})
    assert tokens == replace(tokens)
    assert tokens != replace(tokens, **other)
    assert tokens != "tokens"


def test_cat_pads_ids_and_side_to_the_longest() -> None:
    joined = Tokens.cat([wavtokenizer((3,)), wavtokenizer((9, 2))])
    assert joined.ids.shape == (3, 9, 1)
    assert joined.lengths.tolist() == [3, 9, 2]
    longer = replace(words()[1], side={"word_lengths": torch.tensor([[1, 0, 0]])})
    assert Tokens.cat([words(), longer]).side["word_lengths"].tolist() == [[3, 2, 0], [1, 0, 0], [1, 0, 0]]


def test_cat_refuses_what_means_something_else() -> None:
    with pytest.raises(ValueError, match="at least one"):
        Tokens.cat([])
    with pytest.raises(ValueError, match="specs"):
        Tokens.cat([text(), words()])
    with pytest.raises(ValueError, match="side"):
        Tokens.cat([wavtokenizer(), replace(wavtokenizer(), side={})])
    with pytest.raises(ValueError, match="shared"):
        Tokens.cat([dynamic(), replace(dynamic(), shared={"vocabulary": torch.zeros(44, 2, dtype=torch.int32)})])


def test_prefix_refuses_what_the_spec_does_not_allow() -> None:
    for cut in ({"steps": 3}, {"scales": 1}, {}, {"columns": 2, "steps": 3}):
        with pytest.raises(ValueError, match="scalable in 'columns'"):
            residual().prefix(**cut)
    with pytest.raises(ValueError, match="columns must be 1 to 8"):
        residual().prefix(columns=9)
    with pytest.raises(ValueError, match="steps must be 1 to 32"):
        titok().prefix(steps=0)
    with pytest.raises(ValueError, match="scales must be 1 to 10"):
        var().prefix(scales=11)
    with pytest.raises(ValueError, match="scalable in 'columns'"):
        var().spec.prefix(2)


@pytest.mark.parametrize("value", [-1, 8, 2**40])
def test_an_id_outside_its_codebook_is_named(value: int) -> None:
    wrong = torch.zeros(2, 4, 2, dtype=torch.long)
    wrong[1, 2, 1] = value
    with pytest.raises(ValueError, match=rf"ids\[1, 2, 1\] must be in \[0, 8\), got {value}"):
        Tokens(wrong, TokenSpec("audio", (99, 8)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.bool, torch.complex64])
def test_ids_must_be_integers(dtype: torch.dtype) -> None:
    with pytest.raises(TypeError, match="integer"):
        Tokens(torch.zeros(1, 4, 1, dtype=dtype), TokenSpec("audio", (8,)))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_other_integers_become_int64(dtype: torch.dtype) -> None:
    assert Tokens(torch.ones(1, 4, 1, dtype=dtype), TokenSpec("audio", (8,))).ids.dtype == torch.int64


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"ids": torch.zeros(2, 4, dtype=torch.long)}, ValueError, r"ids must be \[B, T, 1\]"),
        ({"ids": torch.zeros(2, 4, 2, dtype=torch.long)}, ValueError, r"ids must be \[B, T, 1\]"),
        ({"ids": [[[1]]]}, TypeError, "ids must be an integer tensor"),
        ({"shapes": torch.tensor([[4]])}, ValueError, "shapes"),
        ({"shapes": torch.tensor([[4, 1], [4, 1]])}, ValueError, "shapes"),
        ({"shapes": torch.tensor([[5], [1]])}, ValueError, "T=4"),
        ({"shapes": torch.tensor([[-1], [1]])}, ValueError, "T=4"),
        ({"side": {"x": torch.zeros(3)}}, ValueError, "side\\['x'\\] must have 2 items"),
        ({"side": {"x": torch.tensor(1)}}, ValueError, "side\\['x'\\]"),
        ({"side": {"x": [1, 2]}}, TypeError, "'x'"),
        ({"shared": {"x": "table"}}, TypeError, "'x'"),
    ],
)
def test_what_does_not_fit_together_is_refused(fields: dict, error: type[Exception], message: str) -> None:
    good = {"ids": torch.zeros(2, 4, 1, dtype=torch.long), "spec": TokenSpec("audio", (8,))}
    with pytest.raises(error, match=message):
        Tokens(**{**good, **fields})


def test_grids_need_shapes_and_their_product_may_not_wrap_around() -> None:
    spec = TokenSpec("image", (8,), axes=("height", "width"))
    with pytest.raises(ValueError, match="shapes"):
        Tokens(torch.zeros(1, 4, 1, dtype=torch.long), spec)
    with pytest.raises(ValueError, match="T=4"):
        Tokens(torch.zeros(1, 4, 1, dtype=torch.long), spec, torch.tensor([[2**32, 2**32]]))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_tokens_move_between_devices(tmp_path) -> None:
    there = series().to("cuda")
    assert {there.ids.device.type, there.shapes.device.type, there.side["mean"].device.type} == {"cuda"}
    there.save(tmp_path / "a.mmt")
    assert Tokens.load(tmp_path / "a.mmt") == there.to("cpu")


def test_a_stretch_is_cut_from_every_row() -> None:
    spec = TokenSpec("eeg", (50,), axes=("channel", "time"), hop=(1, 10), sample_rate=100.0, channels=0)
    tokens = Tokens(torch.arange(12).reshape(1, 12, 1), spec, torch.tensor([[3, 4]]), {"size": torch.tensor([[3, 40]])})
    part = tokens.narrow(1, 2)
    assert part.grid(0)[..., 0].tolist() == [[1, 2], [5, 6], [9, 10]]
    assert not part.side
    with pytest.raises(RuntimeError):
        tokens.narrow(3, 2)
