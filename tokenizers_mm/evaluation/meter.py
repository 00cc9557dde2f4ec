"""What a network costs: multiply-adds, the time of its parts, the memory of a process, and what the machine could do."""

from __future__ import annotations

import multiprocessing
import statistics
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from tokenizers_mm.nn.onednn import linear

T = TypeVar("T")
_STATUS = Path("/proc/self/status")
Clock = Callable[[], float]
CLOCKS: dict[str, Clock] = {"wall": time.perf_counter, "cpu": time.process_time}


def multiply_adds(work: Callable[[], object], module: nn.Module, parts: Iterable[str] = ()) -> dict[str, float]:
    """Multiply-adds of matrix products and convolutions, in all (key ``""``) and inside each part."""
    counter = FlopCounterMode(display=False)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="TF32")  # the switch below warns of a setting that it doesn't touch
        # without oneDNN every product is an operator that the counter knows, those inside an LSTM among them
        with torch.backends.mkldnn.flags(enabled=False), torch.no_grad(), counter:
            with metered(module, parts, lambda: counter.get_total_flops() / 2) as spent:
                work()
    return {"": counter.get_total_flops() / 2, **spent}


@contextmanager
def metered(module: nn.Module, parts: Iterable[str], read: Clock) -> Iterator[dict[str, float]]:
    """How far ``read`` advances inside each part while the context lasts; a list of modules counts as all its items.

    Raises:
        ValueError: If there is no such part.
    """
    spent, handles, started = dict.fromkeys(parts, 0.0), [], {}

    def enter(layer: nn.Module, _: Any) -> None:
        started[layer] = read()

    def leave(part: str) -> Callable[[nn.Module, Any, Any], None]:
        def add(layer: nn.Module, _: Any, __: Any) -> None:
            spent[part] += read() - started.pop(layer)

        return add

    for part in spent:
        try:
            found = module.get_submodule(part)
        except AttributeError:
            raise ValueError(f"parts: {type(module).__name__} has no part {part!r}") from None
        for layer in found if isinstance(found, nn.ModuleList) else [found]:
            handles += [layer.register_forward_pre_hook(enter), layer.register_forward_hook(leave(part))]
    try:
        yield spent
    finally:
        for handle in handles:
            handle.remove()


def gemm_rate(clock: Clock, repeats: int = 9) -> dict[str, float]:
    """Multiply-adds per second of a float32 product as large as a decoder's, by PyTorch's default and by oneDNN."""
    x, weight = torch.randn(750, 768), torch.randn(2304, 768)
    work = {"default": lambda: torch.mm(x, weight.T), "onednn": lambda: linear(x, weight, None)}
    seconds: dict[str, list[float]] = {name: [] for name in work}
    with torch.no_grad():
        for _ in range(repeats):
            for name, product in work.items():
                start = clock()
                for _ in range(5):
                    product()
                seconds[name].append((clock() - start) / 5)
    return {name: x.numel() * len(weight) / statistics.median(found[1:]) for name, found in seconds.items()}


def peak_memory(build: Callable[[], Any], work: Callable[[Any], object]) -> float | None:
    """Most bytes that ``work(build())`` holds, weights included and imports not, in a process of its own.

    Both are functions of modules (or ``functools.partial`` of such). None where the system doesn't say (only Linux does), or
    the process fails.
    """
    if not _STATUS.is_file():
        return None
    try:
        return _in_process(_measure_peak, build, work, torch.get_num_threads())
    except RuntimeError:
        return None


def run_alone(work: Callable[[], T]) -> tuple[float | None, T]:
    """Most bytes that a process of its own takes for ``work``, all included, and what that returned.

    Raises:
        RuntimeError: If it failed; the message is its error.
    """
    return _in_process(_run_and_measure, work)


def _in_process(target: Callable, *arguments: Any) -> Any:
    """``target(*arguments)`` in a fresh process."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(theirs, target, arguments))
    process.start()
    theirs.close()
    try:
        value, fault = ours.recv()
    except EOFError:
        value, fault = None, "the process ended without an answer"
    finally:
        process.join()
    if fault is not None:
        raise RuntimeError(fault)
    return value


def _answer(pipe: Any, target: Callable, arguments: tuple) -> None:
    try:
        pipe.send((target(*arguments), None))
    except Exception as error:  # whatever it is, the parent says it
        pipe.send((None, f"{type(error).__name__}: {error}"))


def _run_and_measure(work: Callable[[], T]) -> tuple[float | None, T]:
    value = work()
    return _status("VmHWM") if _STATUS.is_file() else None, value


def _measure_peak(build: Callable[[], Any], work: Callable[[Any], object], threads: int) -> float:
    torch.set_num_threads(threads)
    with torch.device("meta"):  # imports all that it needs, and takes no memory of its own
        build()
    before = _status("VmRSS")
    work(build())
    return _status("VmHWM") - before


def _status(key: str) -> float:
    """A figure of this process in bytes. Not ``getrusage``, whose peak a new process inherits from its parent."""
    lines = _STATUS.read_text(encoding="ascii", errors="replace").splitlines()
    return next(1024.0 * int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))
