"""One id space over any codecs: documents give back their tokens, and what may stand where is known from what stands before."""

from __future__ import annotations

import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenizers_mm.lm.grammar import Cursor, annotate
from tokenizers_mm.lm.vocabulary import BETWEEN, BOS, EOS, FORCED, LABEL, PAD, Stream, Vocabulary
from tokenizers_mm.tokens import Tokens, TokenSpec


def spec(sizes: tuple[int, ...] = (7,), axes: tuple[str, ...] = ("time",), **more: object) -> TokenSpec:
    return TokenSpec(modality="audio", codebook_sizes=sizes, axes=axes, **more)  # type: ignore[arg-type]


STREAMS = {
    "plain": Stream("plain", spec()),
    "fixed": Stream("fixed", spec(), grid=(5,)),
    "residual": Stream("residual", spec((5, 6, 7))),
    "parallel": Stream("parallel", spec((5, 6, 7)), "parallel"),
    "delayed": Stream("delayed", spec((5, 6, 7)), "delay"),
    "coarse": Stream("coarse", spec((5, 6, 7)), "coarse-first", grid=(4,)),
    "snac": Stream("snac", spec((5,) * 7, levels=(0, 1, 1, 2, 2, 2, 2)), "interleave"),
    "image": Stream("image", spec((9,), ("height", "width")), grid=(3, 4)),
    "residual-image": Stream("residual-image", spec((9, 4), ("height", "width")), grid=(3, 4)),
    "pictures": Stream("pictures", spec((9, 4), ("height", "width"))),
    "scales": Stream("scales", spec((9,), ("scale",), scales=(1, 4, 9))),
    "pyramid": Stream("pyramid", spec((9,), ("scale",), scales=(1, 4, 9)), "multi-scale"),
    "deep-pyramid": Stream("deep-pyramid", spec((4, 5), ("scale",), scales=(2, 5)), "multi-scale"),
    "eeg": Stream("eeg", spec((4, 5), ("channel", "time")), grid=(3, None)),
    "eeg-delayed": Stream("eeg-delayed", spec((4, 5), ("channel", "time")), "delay", grid=(2, None)),
}


def item(stream: Stream, size: tuple[int, int], seed: int) -> Tokens:
    """Random tokens of a stream, its open extents as given."""
    generator = torch.Generator().manual_seed(seed)
    shape = [own or n for own, n in zip(stream.grid, size[-len(stream.grid) :], strict=True)]
    steps = int(torch.tensor(shape).prod())
    ids = [torch.randint(n, (1, steps), generator=generator) for n in stream.spec.codebook_sizes]
    return Tokens(torch.stack(ids, dim=-1), stream.spec, torch.tensor([shape]))


segments = st.lists(
    st.tuples(st.sampled_from(sorted(STREAMS)), st.tuples(st.integers(1, 6), st.integers(1, 70)), st.integers(0, 99)),
    max_size=3,
)


@pytest.mark.parametrize("classes", [0, 3])
@settings(max_examples=60, deadline=None)
@given(data=segments, label=st.sampled_from([None, 0, 2]))
def test_documents_give_back_their_tokens_and_every_id_is_allowed_where_it_stands(
    classes: int, data: list, label: int | None
) -> None:
    vocabulary = Vocabulary([STREAMS[name] for name in sorted({name for name, *_ in data} | {"plain"})], classes)
    items = [(name, item(STREAMS[name], size, seed)) for name, size, seed in data]
    ids = vocabulary.document(items, label if classes else None)
    assert vocabulary.segments(ids) == items
    padded = torch.cat([torch.full((2, vocabulary.lanes), PAD), ids, torch.full((3, vocabulary.lanes), PAD)])
    found = annotate(vocabulary, padded[None])
    assert found.documents[0].tolist() == [-1] * 2 + [0] * len(ids) + [-1] * 3
    cursor = Cursor(vocabulary)
    for step, kinds, position in zip(ids.tolist(), found.kinds[0, 2:-3], found.positions[0, 2:-3], strict=True):
        expected = kinds.tolist()
        have = [cursor.kind(lane, step[:lane]) for lane in range(vocabulary.lanes)]
        assert [FORCED if kind == LABEL else kind for kind in have] == expected
        assert not cursor.done
        cursor.push(step)
        assert list(cursor.position) == position.tolist()
    assert cursor.done


@settings(max_examples=40, deadline=None)
@given(name=st.sampled_from(sorted(STREAMS)), seed=st.integers(0, 999))
def test_whatever_may_be_written_is_a_document(name: str, seed: int) -> None:
    vocabulary = Vocabulary([STREAMS[name], Stream("other", spec((3,)), grid=(2,))])
    generator = torch.Generator().manual_seed(seed)
    cursor, rows = Cursor(vocabulary), []
    while not cursor.done and len(rows) < 400:
        step: list[int] = []
        for lane in range(vocabulary.lanes):
            ids = cursor.allowed(lane, step).ids
            step.append(int(ids[torch.randint(len(ids), (), generator=generator)]))
        rows.append(step)
        cursor.push(step)
    if cursor.done:
        written = vocabulary.segments(torch.tensor(rows))
        assert torch.tensor(rows).equal(vocabulary.document(written))


def test_every_id_has_one_meaning_and_one_name() -> None:
    vocabulary = Vocabulary(list(STREAMS.values()), classes=4)
    names = list(vocabulary.names())
    assert len(names) == len(set(names)) == vocabulary.size
    owners = torch.zeros(vocabulary.size, dtype=torch.int64)
    for stream in vocabulary.streams:
        owners[vocabulary.codes(stream.name)] += 1
        owners[[vocabulary.begin(stream.name), vocabulary.end(stream.name)]] += 1
        for q, size in enumerate(stream.spec.codebook_sizes):
            part = vocabulary.codes(stream.name, q)
            assert len(part) == size
            assert names[part.start] == f"<{stream.name}:{q}:0>"
    assert vocabulary.modality("audio") == [vocabulary.codes(stream.name) for stream in vocabulary.streams]
    assert vocabulary.modality("image") == []
    assert owners[:5].sum() == 0
    assert (owners[5 : 5 + 5] == 0).all()  # labels and none
    assert (owners[10:] == 1).all()


def test_rows_of_several_documents_do_not_mix() -> None:
    vocabulary = Vocabulary([STREAMS["image"], STREAMS["plain"]])
    one = vocabulary.document([("image", item(STREAMS["image"], (1, 1), 0))])
    two = vocabulary.document([("plain", item(STREAMS["plain"], (1, 6), 0))])
    both = annotate(vocabulary, torch.cat([one, two])[None])
    alone = annotate(vocabulary, two[None])
    assert both.documents[0].tolist() == [0] * len(one) + [1] * len(two)
    assert both.positions[0, len(one) :].equal(alone.positions[0])
    assert both.kinds[0, len(one) :].equal(alone.kinds[0])


def test_cells_of_an_image_have_its_coordinates() -> None:
    vocabulary = Vocabulary([STREAMS["image"], STREAMS["plain"]])
    ids = vocabulary.document(
        [("image", item(STREAMS["image"], (1, 1), 0)), ("plain", item(STREAMS["plain"], (1, 2), 0))]
    )
    at = annotate(vocabulary, ids[None]).positions[0].tolist()
    assert at[:2] == [[0, 0], [1, 1]]  # the document's begin and the image's
    assert at[2:14] == [[2 + r, 2 + c] for r in range(3) for c in range(4)]
    assert at[14:] == [[6 + n, 6 + n] for n in range(len(at) - 14)]


def test_an_unfinished_item_gives_its_whole_frames() -> None:
    vocabulary = Vocabulary([STREAMS["delayed"]])
    tokens = item(STREAMS["delayed"], (1, 9), 1)
    ids = vocabulary.document([("delayed", tokens)])
    ((_, found),) = vocabulary.segments(ids[: 2 + 5 + 2])
    assert found.ids.equal(tokens.ids[:, :5])


@pytest.mark.parametrize(
    ("ids", "what"),
    [
        ([[EOS]], "begin a document"),
        ([[BOS], [9]], "tag"),
        ([[BOS], [5], [3]], "breaks off"),
    ],
)
def test_what_is_no_document_is_refused(ids: list, what: str) -> None:
    vocabulary = Vocabulary([STREAMS["fixed"]])
    with pytest.raises(ValueError, match=what):
        vocabulary.segments(torch.tensor(ids))


def test_wrong_ids_are_named() -> None:
    vocabulary = Vocabulary([STREAMS["plain"], STREAMS["fixed"]], classes=2)
    with pytest.raises(ValueError, match="one of plain, fixed"):
        vocabulary.document([("music", item(STREAMS["plain"], (1, 3), 0))])
    with pytest.raises(ValueError, match="stream 'fixed' must have grids"):
        vocabulary.document([("fixed", item(STREAMS["plain"], (1, 3), 0))])
    with pytest.raises(ValueError, match="holds tokens of"):
        vocabulary.document([("fixed", item(STREAMS["residual"], (1, 5), 0))])
    with pytest.raises(ValueError, match="label must be None or below 2"):
        vocabulary.document([], 2)
    with pytest.raises(ValueError, match="label must be None for a vocabulary without classes"):
        Vocabulary([STREAMS["plain"]]).document([], 0)
    cursor = Cursor(vocabulary)
    cursor.push([BOS])
    with pytest.raises(ValueError, match="may not stand"):
        cursor.push([BETWEEN])


@pytest.mark.parametrize(
    "wrong",
    [
        {"grid": (3, None)},
        {"grid": (0,)},
        {"pattern": "coarse-first"},
        {"pattern": "multi-scale"},
        {"name": "a b"},
    ],
)
def test_streams_that_cannot_be_written_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError):
        Stream(**{"name": "plain", "spec": spec((5, 6)), **wrong})


def test_a_vocabulary_goes_to_other_processes() -> None:
    vocabulary = Vocabulary([STREAMS["image"]])
    ids = vocabulary.document([("image", item(STREAMS["image"], (1, 1), 0))])
    assert pickle.loads(pickle.dumps(vocabulary)).segments(ids) == vocabulary.segments(ids)


def test_a_vocabulary_survives_json() -> None:
    vocabulary = Vocabulary(list(STREAMS.values()), classes=["cat", "dog"])
    assert vocabulary.label("dog") == vocabulary.label(1)
    with pytest.raises(ValueError, match="such as dog"):
        vocabulary.label("dot")
    again = Vocabulary(**vocabulary.to_dict())
    assert again.streams == vocabulary.streams
    assert again.size == vocabulary.size
