"""Speed of the generator: one process and several in turns, on the same corpus, whose bytes must be the same."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from tokenizers_mm.timeseries.synthetic.corpus import CorpusSettings, write_corpus


def measure_corpus(
    series: int = 4096, workers: int = 2, rounds: int = 3, progress: Callable[[str], None] = lambda message: None
) -> dict[str, Any]:
    """Generate a corpus by one process and by ``workers``, several times.

    Args:
        series: Of the corpus.
        workers: Processes.
        rounds: Turns.
        progress: Told what comes next.

    Returns:
        Seconds of each round, by the clock on the wall (``wall``) and of all processors together (``cpu``, starting the workers
        included), and two ratios, medians over rounds: ``faster``, by the wall, and ``faster_on_free_cores``, what the
        processors' time gives where every worker has one to itself.

    Raises:
        RuntimeError: If the bytes differ.
    """
    from tokenizers_mm.evaluation import environment  # imports torch, which workers need not

    counts = {"single": 1, "parallel": workers}
    rows: dict[str, dict[str, list[float]]] = {name: {"wall": [], "cpu": []} for name in counts}
    load = os.getloadavg()[0]
    for turn in range(rounds):
        found = {}
        for name, count in counts.items():
            progress(f"round {turn + 1} of {rounds}: {count} process(es)")
            with tempfile.TemporaryDirectory() as folder:
                wall, cpu = time.perf_counter(), _processor_seconds()
                paths = write_corpus(folder, CorpusSettings(series, seed=turn), workers=count)
                rows[name]["wall"].append(time.perf_counter() - wall)
                rows[name]["cpu"].append(_processor_seconds() - cpu)
                found[name] = [Path(path).read_bytes() for path in paths]
        if found["single"] != found["parallel"]:
            raise RuntimeError(f"{workers} processes gave other bytes than one")
    single, parallel = rows["single"], rows["parallel"]
    wall_ratios = [a / b for a, b in zip(single["wall"], parallel["wall"], strict=True)]
    cpu_ratios = [workers * a / b for a, b in zip(single["cpu"], parallel["cpu"], strict=True)]
    return {
        "series": series,
        "workers": workers,
        **rows,
        "faster": median(wall_ratios),
        "faster_on_free_cores": median(cpu_ratios),
        "load": [load, os.getloadavg()[0]],
        **environment.provenance(("pyarrow", "PyWavelets")),
    }


def _processor_seconds() -> float:
    """Of this process and its children that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system
