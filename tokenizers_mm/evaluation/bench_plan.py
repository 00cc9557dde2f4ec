"""What a benchmark times and how: YAML files in ``eval/benchmarks``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from tokenizers_mm import registry
from tokenizers_mm.evaluation.yaml_files import read_yaml, validated

Task = Literal["encode", "decode", "encode batch", "decode batch", "train step", "stream encode", "stream decode"]
TASKS: tuple[Task, ...] = ("encode", "decode", "encode batch", "decode batch", "train step")
STREAM: tuple[Task, ...] = ("stream encode", "stream decode")


class Benchmark(BaseModel):
    """What is timed and how: a YAML file in ``eval/benchmarks``.

    Attributes:
        name: The file's name without ``.yaml``.
        modality: Wing whose ``PEERS`` compete.
        codecs: Cards.
        peers: Keys of the wing's ``PEERS``.
        reference: The one that ratios are against.
        size: Samples along each axis of every signal, for signals without time: an image's height and width. Times are then per
            signal, not per second.
        channels: Of every signal, for codecs that take any number; by default each contender's own.
        seconds: Of the single clip, for signals with time.
        batch: Signals of a batch.
        batch_seconds: Of each clip of a batch.
        train_seconds: Of each clip of a training batch, as many clips as ``batch``.
        rounds: Turns that each contender gets, after ``warmup`` uncounted ones.
        tasks: Which of :data:`TASKS` and :data:`STREAM` are timed, ``encode`` and ``decode`` always.
        kbps: Codec to the bitrate that it runs at, where that is not all of its codebooks.
        pairs: Codec to the peer that is the same network without the contract: what the contract adds is shown. Peers that can,
            take over the codec's weights, and how many of their ids equal the codec's is shown too.
        parts: Codec to the modules whose share of its time is shown.
        stored_ids: How many ids the bitstream is timed on.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    modality: str
    codecs: tuple[str, ...] = Field(min_length=1)
    peers: tuple[str, ...] = ()
    reference: str
    size: tuple[Annotated[int, Field(ge=1)], ...] = ()
    channels: int | None = Field(None, ge=1)
    seconds: float = Field(5.0, gt=0)
    batch: int = Field(4, ge=1)
    batch_seconds: float = Field(2.0, gt=0)
    train_seconds: float = Field(1.0, gt=0)
    rounds: int = Field(9, ge=1)
    warmup: int = Field(2, ge=1)
    tasks: tuple[Task, ...] = TASKS
    kbps: dict[str, float] = {}
    pairs: dict[str, str] = {}
    parts: dict[str, tuple[str, ...]] = {}
    stored_ids: int = Field(1_000_000, ge=1)

    @property
    def unit(self) -> str:
        """What times are per."""
        return self.modality if self.size else f"second of {self.modality}"


def load_benchmark(source: str | Path) -> Benchmark:
    """A benchmark by the name of a shipped file, or by path.

    Raises:
        ValueError: If there is none or its file is wrong.
    """
    folder = registry.data_path("eval") / "benchmarks"
    path = Path(source) if str(source).endswith((".yaml", ".yml")) else folder / f"{source}.yaml"
    if not path.is_file():
        raise ValueError(
            f"no benchmark {str(source)!r}: expected one of {sorted(p.stem for p in folder.glob('*.yaml'))}"
        )
    return validated(path, read_yaml(path), Benchmark)
