"""What a measurement was made with: machine, versions, command."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("tokenizers_mm", "torch", "torchaudio", "torchvision", "torchmetrics", "numpy", "scipy")


def machine() -> dict[str, str | int]:
    """Processor, cores, threads that torch uses, operating system, and the accelerator if there is one."""
    found: dict[str, str | int] = {
        "cpu": _cpu_name(),
        "cores": os.cpu_count() or 0,
        "threads": torch.get_num_threads(),
        "os": platform.platform(),
    }
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found


def versions(extra: Iterable[str] = ()) -> dict[str, str]:
    """Versions of Python and of those packages that are installed."""
    found = {"python": platform.python_version()}
    for package in dict.fromkeys((*PACKAGES, *extra)):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def command() -> str:
    """The command line of this process, the program by its name alone."""
    return shlex.join([Path(sys.argv[0] or "python").name, *sys.argv[1:]])


def provenance(packages: Iterable[str] = ()) -> dict[str, Any]:
    """What a report says of how it was made: command, date, machine, and versions of ``packages`` among others."""
    date = datetime.now(UTC).isoformat(timespec="seconds")
    return {"command": command(), "date": date, "machine": machine(), "versions": versions(packages)}


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
