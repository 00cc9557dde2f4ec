"""Saved results of one data set as one report, to look at side by side: ``mmtok report``."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path, PurePosixPath

from tokenizers_mm.evaluation.keep import Kept
from tokenizers_mm.evaluation.report import CodecResult, Report, Settings
from tokenizers_mm.evaluation.schema import read_report


@dataclass(frozen=True)
class Merged:
    """Several results as one.

    Args:
        report: All their codecs, each baseline once.
        sources: The results as they were.
        folder: Folder of the kept files, to which ``ItemResult.kept`` is relative; None if there are none.
        notes: Results whose kept files cannot be shown, with the reason.
    """

    report: Report
    sources: tuple[Report, ...]
    folder: Path | None
    notes: tuple[str, ...]


def merge(paths: Sequence[str | Path], *, items: Iterable[str | Path] = ()) -> Merged:
    """Results that ``mmtok eval -o FILE`` wrote, as one report.

    A codec or baseline that several files hold unchanged counts once, the one with kept files or else the newest; one that
    changed in between is told apart by the files' names.

    Args:
        paths: Result files of the same data and metrics.
        items: Folders that kept files may lie in, beside those of the result files: a result from elsewhere must not make a page
            show any other file.

    Raises:
        FileNotFoundError: If a file does not exist.
        ValueError: If there is none, one is not a result, or they are not of the same data, metrics and conditions.
    """
    if not paths:
        raise ValueError("paths must name at least one result file, got none")
    files = {Path(path): read_report(path) for path in paths}
    first_path, first = next(iter(files.items()))
    for path, report in files.items():
        if difference := _difference(first, report):
            raise ValueError(f"{first_path} and {path} do not compare on one page: {difference}; make a page for each")
    folders, notes = _folders(files, [Path(folder) for folder in items])
    base = Path(os.path.commonpath(folders.values())) if folders else None
    found = [
        (path, report, result) for path, report in _relocated(files, folders, base).items() for result in report.codecs
    ]
    settings, results = _settings(list(files.values())), _distinct(found)
    order = {name: i for i, name in enumerate(settings.conditions)}
    merged = replace(
        first,
        codecs=tuple(sorted(results, key=lambda r: (order[r.condition], r.kind == "baseline"))),
        settings=replace(
            settings, unavailable={k: v for k, v in settings.unavailable.items() if k not in {r.codec for r in results}}
        ),
        about={name: row for report in files.values() for name, row in report.about.items()},
        kept=None,
        digest="",
    )
    return Merged(merged, tuple(files.values()), base, tuple(notes))


def _difference(first: Report, other: Report) -> str | None:
    """Why two results cannot stand in one table."""
    if other.modality != first.modality:
        return f"one is of {first.modality}, one of {other.modality}"
    if other.data["fingerprint"] != first.data["fingerprint"]:
        return "their data differ ({}: {} files, {}: {} files)".format(
            *(value for report in (first, other) for value in (report.data["name"], report.data["files"]))
        )
    if other.definitions != first.definitions:
        changed = {
            k for k in first.definitions | other.definitions if first.definitions.get(k) != other.definitions.get(k)
        }
        return f"their metrics differ ({', '.join(sorted(changed))})"
    both = first.settings.conditions.keys() & other.settings.conditions.keys()
    if changed := {k for k in both if first.settings.conditions[k] != other.settings.conditions[k]}:
        return f"their conditions differ ({', '.join(sorted(changed))})"
    return None


def _settings(reports: Sequence[Report]) -> Settings:
    """The first one's settings with what the others add."""

    def union(name: str) -> dict[str, str]:
        return {key: value for report in reports[::-1] for key, value in getattr(report.settings, name).items()}

    first = reports[0].settings
    return replace(
        first,
        conditions={**first.conditions, **union("conditions")},  # in the first one's order
        baselines=union("baselines"),
        models=union("models"),
        unavailable=union("unavailable"),
    )


def _distinct(found: Sequence[tuple[Path, Report, CodecResult]]) -> list[CodecResult]:
    """Each codec and baseline once per condition; different ones of one name with their file's name."""
    latest: dict[tuple, tuple[Path, CodecResult]] = {}
    for path, _, result in sorted(found, key=lambda entry: (_has_kept(entry[2]), entry[1].date)):
        rate = result.spec.get("sample_rate"), result.spec.get("channels")  # of a baseline, what its fingerprint lacks
        latest[result.kind, result.codec, result.condition, result.fingerprint, rate] = path, result
    order = {id(result): i for i, (_, _, result) in enumerate(found)}
    results = sorted(latest.values(), key=lambda entry: order[id(entry[1])])
    names = [(result.kind, result.codec, result.condition) for _, result in results]
    return [
        replace(result, codec=f"{result.codec} ({path.stem})") if names.count(name) > 1 else result
        for name, (path, result) in zip(names, results, strict=True)
    ]


def _has_kept(result: CodecResult) -> bool:
    return any(item.kept is not None for item in result.items)


# -- kept files ------------------------------------------------------------------------------------


def _folders(files: Mapping[Path, Report], trusted: Sequence[Path]) -> tuple[dict[Path, Path], list[str]]:
    """Folder of the kept files of each result that has any, and why others cannot be shown."""
    found, notes = {}, []
    for path, report in files.items():
        if report.kept is None:
            continue
        folder = (path.parent / report.kept).resolve()
        if not any(folder.is_relative_to(allowed.resolve()) for allowed in (path.parent, *trusted)):
            notes.append(f"{path}: its kept files are not beside it but in {folder}: give that folder with --items")
        elif not folder.is_dir():
            notes.append(f"{path}: its kept files are gone: {folder} does not exist")
        else:
            found[path] = folder
    return found, notes


def _relocated(files: Mapping[Path, Report], folders: Mapping[Path, Path], base: Path | None) -> dict[Path, Report]:
    """The results with kept files relative to ``base``; those without a folder lose them. Equal originals share one file."""
    originals: dict[str, str] = {}
    moved = {}
    for path, report in files.items():
        folder = folders.get(path)
        if folder is None or base is None:
            moved[path] = report.without_files()
            continue

        def place(kept: Kept | None, folder: Path = folder, path: Path = path) -> Kept | None:
            if kept is None:
                return None
            names = {field.name: getattr(kept, field.name) for field in fields(kept)}
            for name in filter(None, names.values()):
                if not (folder / name).resolve().is_relative_to(folder):
                    raise ValueError(f"{path}: the kept file {name!r} is outside of {folder}")
            placed = {
                key: name and str(PurePosixPath(os.path.relpath(folder, base), name)) for key, name in names.items()
            }
            if kept.original and placed["original"]:
                placed["original"] = originals.setdefault(kept.original, placed["original"])
            return Kept(**placed)

        codecs = (
            replace(result, items=tuple(replace(item, kept=place(item.kept)) for item in result.items))
            for result in report.codecs
        )
        moved[path] = replace(report, codecs=tuple(codecs))
    return moved
