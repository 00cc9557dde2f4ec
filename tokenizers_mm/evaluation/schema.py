"""Reading reports back: a versioned layout, checked strictly, so that a file that loads is a report."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from tokenizers_mm.evaluation.report import SCHEMA, Report

SHOWN = 5  # faults that a message names


@cache
def _adapter() -> TypeAdapter[Report]:
    return TypeAdapter(Report)


def json_schema() -> dict[str, Any]:
    """The layout of a report's JSON as a JSON Schema (draft 2020-12)."""
    schema = _adapter().json_schema()
    schema["properties"]["schema"] = {"const": SCHEMA, "title": "Schema"}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def read_report(path: str | Path) -> Report:
    """A report that :meth:`Report.save` wrote.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not JSON, of another version, or departs from the layout; the message names the file and keys.
    """
    text = Path(path).read_bytes()
    try:
        version = json.loads(text).get("schema")
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{path} is not a JSON object: {error}") from None
    if version != SCHEMA:
        raise ValueError(f"{path}: schema: this library reads version {SCHEMA} of reports, got {version!r}")
    try:
        return _adapter().validate_json(text)
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        more = f"; and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
        raise ValueError(f"{path}: {'; '.join(faults[:SHOWN])}{more}") from None
