"""Measure language models of tokens, and n-grams beside them, source by source."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from tokenizers_mm import bitstream, registry
from tokenizers_mm.codec import Codec
from tokenizers_mm.evaluation.environment import provenance
from tokenizers_mm.evaluation.keep import slug
from tokenizers_mm.evaluation.lm.plan import LMPlan, Source
from tokenizers_mm.evaluation.lm.report import LMReport, Row, Tested
from tokenizers_mm.evaluation.lm.samples import compare, draw, set_metrics, write
from tokenizers_mm.evaluation.lm.scores import measure_bits, measure_files, rate_of
from tokenizers_mm.evaluation.lm.sources import batches, fingerprint, read, read_labels
from tokenizers_mm.evaluation.summarise import rate_unit
from tokenizers_mm.evaluation.tables import short_names
from tokenizers_mm.language_models import load_lm
from tokenizers_mm.lm.document_model import DocumentModel, predictor
from tokenizers_mm.lm.neighbours import most_neighbours
from tokenizers_mm.lm.ngram import TokenNGram
from tokenizers_mm.lm.predicts import Predicts
from tokenizers_mm.scale.columns import Label
from tokenizers_mm.tokens import Tokens
from tokenizers_mm.transcode import codec_name_for

HELD_OUT: Final = "held-out"
Progress = Callable[[str], object]


def evaluate_lms(
    models: Sequence[str | Path],
    plan: LMPlan,
    *,
    keep: str | Path | None = None,
    codecs: Mapping[str, str | Path] | None = None,
    progress: Progress = lambda _: None,
) -> LMReport:
    """Measure models on every source of a plan whose tokens they know.

    Args:
        models: Names of shipped ones, or folders; none for n-grams alone.
        plan: What is measured, and on what.
        keep: Folder for what drawn and held-out items decode to; without one, only histograms are compared.
        codecs: Codec by source, where tokens do not say what decodes them or another one is to.
        progress: Told what is being done.

    Raises:
        ValueError: If no source is there, or a model knows the tokens of none.
    """
    loaded = {short: predictor(load_lm(name)) for name, short in short_names(map(str, models)).items()}
    sources: list[Tested] = []
    rows: list[Row] = []
    notes: list[str] = []
    used: set[str] = set()
    for name, source in plan.sources.items():
        try:
            work = _Work.of(name, source, plan, keep, (codecs or {}).get(name), progress)
        except FileNotFoundError as error:
            notes.append(f"{name} is left out: {error}")
            continue
        fitting = {key: model for key, model in loaded.items() if work.fits(model)}
        used |= fitting.keys()
        sources.append(work.tested)
        rows += work.rows(fitting)
        notes += work.notes
    if not sources:
        raise ValueError(f"suite {plan.name!r} must have a source whose tokens are there: {'; '.join(notes)}")
    if unused := sorted(loaded.keys() - used):
        raise ValueError(f"models {unused} know the tokens of no source: {', '.join(s.name for s in sources)}")
    modalities = {tested.spec["modality"] for tested in sources}
    titles = {key: metric.name for modality in modalities for key, metric in set_metrics(modality).items()}
    settings = plan.model_dump(mode="json", exclude={"name", "sources"})
    return LMReport(plan.name, settings, tuple(sources), tuple(rows), titles, notes=tuple(notes), **provenance())


@dataclass
class _Work:
    """One source.

    Args:
        tested: Facts for the report.
        train: Items to count n-grams on.
        test: Held-out items.
        labels: Their classes, if models are to be told.
        plan: What is measured.
        keep: Folder for what items decode to.
        codec: Decodes items, if they are to be kept.
        progress: Told what is being done.
        notes: What was left out.
    """

    tested: Tested
    train: list[Tokens]
    test: list[Tokens]
    labels: list[Label] | None
    plan: LMPlan
    keep: Path | None
    codec: Codec | None
    progress: Progress
    notes: list[str]

    @classmethod
    def of(
        cls,
        name: str,
        source: Source,
        plan: LMPlan,
        keep: str | Path | None,
        codec: str | Path | None,
        progress: Progress,
    ) -> _Work:
        """Read a source."""
        progress(f"{name}: reading")
        train_folder, test_folder = source.folders
        train, _ = read(train_folder, most_ids=plan.train_ids)
        test, writer = read(test_folder, most_items=plan.test_items)
        if train[0].spec != test[0].spec:
            raise ValueError(f"{name}: train and test must be of one spec, got {train[0].spec} and {test[0].spec}")
        notes: list[str] = []
        decoder = _decoder(codec, writer, test[0], f"{name}: ", notes) if keep is not None and plan.samples else None
        folder = None if keep is None else Path(keep)
        labels = read_labels(test_folder, len(test)) if plan.labels else None
        if labels is not None and None in labels:
            notes.append(f"{name}: classes are not told: not every held-out item has one")
            labels = None
        return cls(_tested(name, writer, train, test), train, test, labels, plan, folder, decoder, progress, notes)

    def fits(self, model: Predicts) -> bool:
        """Whether a model knows these tokens."""
        item = self.test[0]
        try:
            model.start(item.spec, item.shapes[0].tolist())
        except ValueError:
            return False
        return True

    def rows(self, models: Mapping[str, Predicts]) -> Iterator[Row]:
        """Held-out items against others, models, then n-grams."""
        count = min(self.plan.samples, (len(self.test) - 1) // 2)  # as many again stand in the place of drawn ones
        if count < self.plan.samples:
            self.notes.append(f"{self.tested.name}: {count} items are drawn, of {len(self.test)} held-out ones")
        like = self.test[:count]
        beside = self._written(HELD_OUT, like)
        if like:
            others, rest = self.test[count : 2 * count], self.test[2 * count :]
            yield self._sampled(Row(self.tested.name, HELD_OUT, HELD_OUT), others, [*like, *rest], beside)
        for name, model in models.items():
            row = self._measured(Row(self.tested.name, name, "model"), model, files=True)
            yield self._drawn(self._told(row, model), model, like, beside)
        for name, gram, longest in self._ngrams():
            row = self._measured(Row(self.tested.name, name, "n-gram"), gram, files=longest)
            yield self._drawn(row, gram, like if longest else [], beside)

    def _ngrams(self) -> Iterator[tuple[str, TokenNGram, bool]]:
        """N-grams by name, and whether each is the longest of its context."""
        spec = self.test[0].spec
        for context in self.plan.contexts:
            if context == "grid" and len(spec.axes) == spec.num_codebooks == 1 and "sequence" in self.plan.contexts:
                continue  # the same ids are near
            most = most_neighbours(context, spec) + 1
            orders = sorted(order for order in self.plan.orders if order <= most)
            for order in orders:
                if order == 1 and context != self.plan.contexts[0]:
                    continue  # without neighbours all contexts are one
                name = f"{order}-gram" if order == 1 else f"{order}-gram, {context}"
                self.progress(f"{self.tested.name}: counting {name}")
                yield name, TokenNGram.learn(batches(self.train), order=order, context=context), order == orders[-1]

    def _measured(self, row: Row, model: Predicts, *, files: bool) -> Row:
        self.progress(f"{row.source}: {row.model}")
        some = self.test[: self.plan.files] if files else []
        return replace(
            row,
            parameters=model.num_parameters,
            fingerprint=model.fingerprint,
            bits=measure_bits(model, self.test),
            files=measure_files(model, some) if some else None,
        )

    def _told(self, row: Row, model: Predicts) -> Row:
        """A row with bits of a model that has classes and is told those of the items."""
        if self.labels is None or not isinstance(model, DocumentModel) or not model.network.vocabulary.classes:
            return row
        self.progress(f"{row.source}: {row.model}, told the classes")
        try:
            return replace(row, told=measure_bits(model, self.test, self.labels))
        except ValueError as error:
            self.notes.append(f"{row.source}: {row.model} is not told classes: {error}")
            return row

    def _drawn(self, row: Row, model: Predicts, like: list[Tokens], beside: list[Path]) -> Row:
        if not like:
            return row
        self.progress(f"{row.source}: drawing from {row.model}")
        return self._sampled(row, draw(model, like, self.plan.seed), self.test, beside)

    def _sampled(self, row: Row, drawn: list[Tokens], held_out: list[Tokens], beside: list[Path]) -> Row:
        paths = self._written(row.model if row.kind != HELD_OUT else f"{HELD_OUT} others", drawn)
        samples = compare(drawn, held_out, drawn[0].spec, (paths, beside))
        shown = beside if row.kind == HELD_OUT else paths
        return replace(row, samples=samples, kept=tuple(str(p.relative_to(self.keep)) for p in shown if self.keep))

    def _written(self, name: str, items: list[Tokens]) -> list[Path]:
        if self.codec is None or self.keep is None:
            return []
        return write(items, self.codec, self.keep / slug(self.tested.name) / slug(name))


def _tested(name: str, writer: str | None, train: list[Tokens], test: list[Tokens]) -> Tested:
    ids = sum(item.ids.numel() for item in test)
    nominal = sum(float(item.bits) for item in test)
    plain = sum(8.0 * len(bitstream.dumps(batch)) for batch in batches(test, 2**24))
    return Tested(
        name, writer, test[0].spec.to_dict(), len(test), ids, sum(item.ids.numel() for item in train),
        fingerprint(test), nominal / ids, plain / ids, rate_of(nominal, test), rate_of(plain, test),
        rate_unit(test[0].spec),
    )  # fmt: skip


def _decoder(codec: str | Path | None, writer: str | None, item: Tokens, about: str, notes: list[str]) -> Codec | None:
    """What decodes items; None with a note if there is nothing."""
    try:
        return registry.load(codec or codec_name_for(item.spec, writer))
    except (ValueError, FileNotFoundError) as error:
        notes.append(f"{about}draws are not decoded: {error}")
        return None
