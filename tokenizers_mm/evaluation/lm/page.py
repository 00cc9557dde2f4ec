"""The report on language models as one HTML file that needs nothing else: tables, and what models draw to hear and look at."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from html import escape
from pathlib import Path

from tokenizers_mm import registry
from tokenizers_mm.evaluation.exhibit import Exhibit
from tokenizers_mm.evaluation.gallery import MEDIA_BYTES
from tokenizers_mm.evaluation.html import page_part
from tokenizers_mm.evaluation.lm.report import LMReport, Row, Tested
from tokenizers_mm.tokens import TokenSpec

_STYLE = """
.drawn { display: grid; grid-template-columns: repeat(auto-fill, minmax(170px, 1fr)); gap: 12px; margin: 12px 0 28px; }
.drawn img { display: block; width: 100%; border-radius: 6px; } .drawn audio { width: 100%; margin-top: 6px; }
"""
_ABOUT = """Bits of held-out ids under each model; beside them the sizes of real files of a few items, heads included. JS of
draws: Jensen-Shannon divergence, in bits, of the codes that a model draws and of held-out ones; the row <i>held-out</i> puts
other held-out items in the place of drawn ones: what is left there is chance."""


def write_page(report: LMReport, path: str | Path, *, kept: str | Path | None = None, limit: int = 8) -> Path:
    """Write the report as one self-contained page.

    Args:
        report: What :func:`tokenizers_mm.evaluation.lm.run.evaluate_lms` returned.
        path: The file to write.
        kept: Folder of what items decode to (``evaluate_lms(keep=...)``); None for a page of tables.
        limit: Draws of each model that are shown, as far as they fit in about 30 MB.

    Returns:
        ``path``.
    """
    style = page_part("page.css") + _STYLE
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; media-src data:; base-uri 'none'"
    title = escape(f"{report.suite}: {', '.join(source.name for source in report.sources)}")
    media = _Media(None if kept is None else Path(kept), limit)
    body = "\n".join(_source(report, source, media) for source in report.sources)
    notes = "".join(f"<li>{escape(note)}</li>" for note in (*report.notes, *media.missing))
    text = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{escape(policy)}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<header class="page">
<p class="eyebrow">language models of tokens, suite {escape(report.suite)}</p>
<h1>{title}</h1>
<dl class="facts">{_facts(report)}</dl>
</header>
<main>
<p class="quiet">{_ABOUT}</p>
{body}
<div class="notes"><ul>{notes}</ul></div>
</main>
</body>
</html>
"""
    Path(path).write_text(text, encoding="utf-8")
    return Path(path)


def _facts(report: LMReport) -> str:
    facts = {
        "Made": report.date.replace("T", " ").replace("+00:00", " UTC"),
        "Machine": "; ".join(map(str, report.machine.values())),
        "Versions": ", ".join(f"{name} {number}" for name, number in report.versions.items()),
        "Command": report.command,
    }
    return "".join(f"<div><dt>{name}</dt><dd>{escape(value)}</dd></div>" for name, value in facts.items())


def _source(report: LMReport, source: Tested, media: _Media) -> str:
    titles = "".join(f"<th scope=col>{escape(title)}</th>" for title in ("model", *report.columns(source)))
    rows = "".join(_table_row(row.model, row.kind, report.cells(source, row)) for row in report.of(source.name))
    name = escape(source.name)
    drawn = "".join(media.of(source, row) for row in report.of(source.name))
    return f"""<section>
<h2>{name}</h2>
<p class="quiet">{escape(report.heading(source))}. Equally likely ids take {source.nominal:.3f} bits each, a file without a model
{source.plain:.3f}.</p>
<div class="scroll"><table><thead><tr>{titles}</tr></thead><tbody>{rows}</tbody></table></div>
{drawn}
</section>"""


def _table_row(name: str, kind: str, cells: tuple[str, ...]) -> str:
    of_class = "" if kind == "model" else ' class="baseline"'
    return f"<tr{of_class}><th scope=row>{escape(name)}</th>{''.join(f'<td>{escape(c)}</td>' for c in cells)}</tr>"


class _Media:
    """What kept files look and sound like, until they are too much for a page.

    Args:
        folder: Of the kept files, or None for none.
        limit: Most of a model.
    """

    def __init__(self, folder: Path | None, limit: int) -> None:
        self.folder, self.limit, self.size = folder, limit, 0
        self.missing: list[str] = []

    def of(self, source: Tested, row: Row) -> str:
        """Drawn items of a row."""
        shown = "".join(self._shown(source, row))
        return f'<h3>{escape(row.model)}</h3><div class="drawn">{shown}</div>' if shown else ""

    def _shown(self, source: Tested, row: Row) -> Iterator[str]:
        spec = TokenSpec.from_dict(source.spec)
        if self.folder is None:
            return
        for name in row.kept[: self.limit]:
            try:
                figure = _figure(registry.wing(spec.modality, "show").render(self.folder / name, spec), name)
            except (OSError, ValueError) as error:
                self.missing.append(f"not shown: {name}: {error}")
                continue
            if self.size + len(figure) > MEDIA_BYTES:
                self.missing.append(f"not shown: {name} and what follows: the page would be too large")
                return
            self.size += len(figure)
            yield figure


def _figure(exhibit: Exhibit, name: str) -> str:
    shown = exhibit.to_dict()
    image = f'<img src="{shown["image"]}" alt="{escape(exhibit.caption)}">' if exhibit.image else ""
    sound = f'<audio controls preload="none" src="data:{exhibit.sound_type};base64,{shown["sound"]}"></audio>'
    return f'<figure title="{escape(name)}">{image}{sound if exhibit.sound else ""}</figure>'
