"""Patterns: every order gives back its grid and its length, for any number of frames, alone and in batches."""

from __future__ import annotations

from itertools import accumulate

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tokenizers_mm as tm
from tokenizers_mm.lm.pattern import Pattern
from tokenizers_mm.lm.patterns import (
    PATTERNS,
    CoarseFirst,
    Delay,
    Flatten,
    GroupMajor,
    Interleave,
    MultiScale,
    Parallel,
    from_level_sequences,
    level_sequences,
    pattern_for,
)

SIZE, SPECIAL, PAD = 50, 50, 51
SNAC = (0, 1, 1, 2, 2, 2, 2)


@st.composite
def patterns(draw: st.DrawFn) -> Pattern:
    q = draw(st.integers(1, 6))
    delays = tuple(draw(st.lists(st.integers(0, 5), min_size=q, max_size=q)))
    groups = [0]
    for rise in draw(st.lists(st.integers(0, 1), min_size=q - 1, max_size=q - 1)):
        groups.append(groups[-1] + rise)
    levels = sorted(draw(st.lists(st.integers(0, 3), min_size=q, max_size=q)))
    return draw(
        st.sampled_from(
            [
                Parallel(q),
                Delay(q),
                Delay(q, delays),
                CoarseFirst(q),
                CoarseFirst(q, delays[1:]),
                Flatten(q),
                Flatten(q, tuple(groups)),
                GroupMajor(q, draw(st.integers(1, q + 1))),
                Interleave(tuple(levels)),
                Interleave(SNAC),
                MultiScale((1, 4, 9, 16)),
                MultiScale((1, 2, 5), q),
            ]
        )
    )


def frames_of(pattern: Pattern) -> st.SearchStrategy[int]:
    if isinstance(pattern, MultiScale):
        return st.sampled_from([0, *accumulate(pattern.scales)])
    return st.integers(0, 9)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_every_batch_comes_back_from_its_ids_alone(data: st.DataObject) -> None:
    pattern = data.draw(patterns())
    lengths = torch.tensor(data.draw(st.lists(frames_of(pattern), min_size=1, max_size=4)))
    ids = torch.randint(0, SIZE, (len(lengths), int(lengths.max()) + data.draw(st.integers(0, 2)), pattern.columns))
    pad = data.draw(st.sampled_from([None, PAD]))
    sequence = pattern.sequence(ids, lengths, special=SPECIAL, pad=pad)
    grid, found = pattern.grid(sequence.ids, special=SPECIAL, pad=pad)
    assert found.tolist() == lengths.tolist()
    for b, n in enumerate(lengths.tolist()):
        assert torch.equal(grid[b, :n], ids[b, :n])
        assert not grid[b, n:].any()
        alone = pattern.sequence(ids[b : b + 1, :n], special=SPECIAL, pad=pad)  # batch-mates and padding do not matter
        steps = pattern.steps(n)
        assert int(sequence.lengths[b]) == int(alone.lengths) == steps
        assert torch.equal(sequence.ids[b, :steps], alone.ids[0])
        assert torch.equal(sequence.mask[b, :steps], alone.mask[0])
        assert sequence.mask[b].sum() == n * pattern.columns
        assert not sequence.mask[b, steps:].any()
        assert (sequence.ids[b, steps:] == (SPECIAL if pad is None else PAD)).all()
        assert (sequence.ids[b, :steps][~sequence.mask[b, :steps]] == SPECIAL).all()


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_layout_is_one_to_one_and_says_which_code_stands_where(data: st.DataObject) -> None:
    pattern = data.draw(patterns())
    frames = data.draw(frames_of(pattern))
    layout = pattern.layout(frames)
    cells = {(s, lane) for s, lane in zip(layout.step.flatten().tolist(), layout.lane.flatten().tolist(), strict=True)}
    assert len(cells) == frames * pattern.columns
    filled = layout.column >= 0
    assert filled.sum() == frames * pattern.columns
    assert torch.equal(layout.frame >= 0, filled)
    assert filled.any(dim=1).all() or any(getattr(pattern, "delays", ()))  # only lags can leave a step without a code
    for t in range(frames):
        for q in range(pattern.columns):
            cell = layout.step[t, q], layout.lane[t, q]
            assert (layout.frame[cell], layout.column[cell]) == (t, q)
    assert (layout.step.diff(dim=0) >= 0).all()  # time never runs backwards in a column
    assert (layout.group.diff() >= 0).all()


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_open_ended_patterns_do_not_move_codes_when_frames_follow(data: st.DataObject) -> None:
    pattern = data.draw(patterns())
    short, long = sorted((data.draw(frames_of(pattern)), data.draw(frames_of(pattern))))
    same = torch.equal(pattern.layout(long).step[:short], pattern.layout(short).step)
    assert same or not pattern.open_ended
    torch.testing.assert_close(pattern.layout(long).lane[:short], pattern.layout(short).lane)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 6), st.integers(0, 8), st.lists(st.integers(0, 4), min_size=6, max_size=6))
def test_steps_follow_the_published_formulas(q: int, frames: int, lags: list[int]) -> None:
    """Steps counted from 0 here, so one less than where a start token is step 0."""
    t = torch.arange(frames)[:, None]
    k, d = torch.arange(q), torch.tensor(lags[:q])
    assert torch.equal(Parallel(q).layout(frames).step, (t + 0 * k))
    assert torch.equal(Delay(q, tuple(lags[:q])).layout(frames).step, t + d)
    assert torch.equal(Flatten(q).layout(frames).step, t * q + k)
    assert torch.equal(GroupMajor(q, 1).layout(frames).step, k * frames + t)
    assert torch.equal(GroupMajor(q, q).layout(frames).step, t * q + k)
    later = CoarseFirst(q, tuple(lags[1:q])).layout(frames).step
    assert torch.equal(later[:, :1], t)
    assert torch.equal(later[:, 1:], frames + t + d[1:])
    if frames:
        assert [p.steps(frames) for p in (Parallel(q), Delay(q), Flatten(q))] == [frames, frames + q - 1, frames * q]
        assert CoarseFirst(q).steps(frames) == (2 * frames if q > 1 else frames)


def test_delay_is_the_published_example() -> None:
    ids = torch.tensor([1, 2, 3, 4])[None, :, None].expand(1, 4, 3)
    rows = Delay(3).sequence(ids, special=0).ids[0].T
    assert rows.tolist() == [[1, 2, 3, 4, 0, 0], [0, 1, 2, 3, 4, 0], [0, 0, 1, 2, 3, 4]]


def test_interleave_is_the_order_of_time() -> None:
    """c0, c1[0], c2[0], c2[1], c1[1], c2[2], c2[3]."""
    ids = torch.tensor([[[0, 10, 11, 20, 21, 22, 23]]])
    assert Interleave(SNAC).sequence(ids, special=99).ids.flatten().tolist() == [0, 10, 20, 21, 11, 22, 23]
    three = Interleave((0, *[1] * 2, *[2] * 4, *[3] * 8))  # the 32 kHz model's strides 8, 4, 2, 1
    assert three.order == (0, 1, 3, 7, 8, 4, 9, 10, 2, 5, 11, 12, 6, 13, 14)
    assert Interleave((0, 0, 1, 1, 1)).order == (0, 2, 3, 1, 4)  # rates that do not divide each other
    assert Interleave((0, 1, 2)).order == Flatten(3).groups_of  # plain residual codebooks: frame by frame


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 20), min_size=3, max_size=3))
def test_level_sequences_of_any_length_come_back(counts: list[int]) -> None:
    """Also where a level's length is no multiple of its rate: the counts say where to cut."""
    levels = [torch.randint(1, 50, (2, n)) for n in counts]
    ids, found = from_level_sequences(levels, SNAC)
    sequence = Interleave(SNAC).sequence(ids, special=50)
    grid, _ = Interleave(SNAC).grid(sequence.ids, special=50)
    back = [level[:, :n] for level, n in zip(level_sequences(grid, SNAC), found.tolist(), strict=True)]
    assert all(torch.equal(a, b) for a, b in zip(back, levels, strict=True))


def test_multi_scale_predicts_whole_scales() -> None:
    pattern = MultiScale((1, 4, 9))
    assert pattern.layout(14).group.tolist() == [0] + [1] * 4 + [2] * 9
    assert pattern.layout(5).group.tolist() == [0] + [1] * 4
    with pytest.raises(ValueError, match=r"whole scales, one of \(0, 1, 5, 14\), got 6"):
        pattern.sequence(torch.zeros(1, 6, 1, dtype=torch.long), special=1)


def test_what_belongs_to_cells_comes_to_the_grid() -> None:
    """Logits in a pattern's order stand at the code that they predict; gradients flow."""
    pattern, lengths = Delay(3), torch.tensor([4, 2])
    ids = torch.randint(0, SIZE, (2, 4, 3))
    sequence = pattern.sequence(ids, lengths, special=SPECIAL)
    one_hot = torch.nn.functional.one_hot(sequence.ids, SIZE + 1).float().requires_grad_()
    logits = pattern.gather(one_hot, lengths)
    assert logits.shape == (2, 4, 3, SIZE + 1)
    assert torch.equal(logits[0].argmax(-1), ids[0])
    assert torch.equal(logits[1, :2].argmax(-1), ids[1, :2])
    assert not logits[1, 2:].any()
    logits.sum().backward()
    assert torch.equal(one_hot.grad.any(-1), sequence.mask)


@pytest.mark.parametrize("name", PATTERNS)
def test_a_codec_s_spec_gives_its_pattern(name: str) -> None:
    levels = SNAC if name == "interleave" else ()
    scales = (1, 4) if name == "multi-scale" else ()
    spec = tm.TokenSpec("audio", (16,) * 7, hop=(320,), sample_rate=16000, levels=levels, scales=scales)
    pattern = pattern_for(spec, name)
    tokens = tm.Tokens(torch.randint(0, 16, (2, 5, 7)), spec, shapes=torch.tensor([[5], [1]]))
    sequence = pattern.sequence(tokens.ids, tokens.lengths, special=16)
    grid, lengths = pattern.grid(sequence.ids, special=16)
    assert tm.Tokens(grid, spec, shapes=lengths[:, None]) == tokens
    with pytest.raises(ValueError, match="name must be one of parallel"):
        pattern_for(spec, "diagonal")


def test_wrong_input_is_one_clear_error() -> None:
    pattern, ids = Delay(2), torch.zeros(1, 3, 2, dtype=torch.long)
    with pytest.raises(ValueError, match=r"ids must be \[B, T, 2\], got \[1, 2, 3\]"):
        pattern.sequence(ids.transpose(1, 2), special=5)
    with pytest.raises(ValueError, match="special 0 and pad 7 must differ from every code"):
        pattern.sequence(ids, special=0, pad=7)
    with pytest.raises(ValueError, match="special 7 and pad 0 must differ"):
        pattern.sequence(ids, special=7, pad=0)
    with pytest.raises(ValueError, match=r"lengths must be 0 to 3, got \[4\]"):
        pattern.sequence(ids, torch.tensor([4]), special=5)
    with pytest.raises(ValueError, match="item 0 is no sequence of Delay: its 6 codes"):
        pattern.grid(torch.zeros(1, 3, 2, dtype=torch.long), special=5)
    with pytest.raises(ValueError, match="item 0 is no sequence of Delay: its 1 codes"):
        pattern.grid(torch.tensor([[[0, 5]]]), special=5)
    with pytest.raises(ValueError, match="3 frames take 4 steps, got a sequence of 3"):
        pattern.gather(torch.zeros(1, 3, 2), torch.tensor([3]))
    with pytest.raises(ValueError, match=r"sequence must be \[B, S, 2\]"):
        pattern.grid(torch.zeros(1, 3, dtype=torch.long), special=5)
    for wrong in (lambda: Delay(2, (1,)), lambda: Delay(2, (0, -1)), lambda: CoarseFirst(2, (0, 1))):
        with pytest.raises(ValueError, match="delays must be"):
            wrong()
    with pytest.raises(ValueError, match="groups_of must give each of 3 columns"):
        Flatten(3, (0, 2, 2))
    with pytest.raises(ValueError, match="columns must be at least 1"):
        Parallel(0)
    with pytest.raises(ValueError, match="non-decreasing"):
        Interleave((1, 0))
    with pytest.raises(ValueError, match="positive step counts"):
        MultiScale(())
