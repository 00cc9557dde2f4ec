"""Items of tokens as columns of Parquet and back, bit for bit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from tokenizers_mm.tokens import Tokens, TokenSpec

if TYPE_CHECKING:
    import pyarrow as pa

Label = int | str | None
"""Class of an item: its number, its name, or none."""
NUMBER, NAME = "label", "label_name"
_DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
        *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
    )
}


@dataclass(frozen=True)
class Item:
    """Tokens of one input.

    Args:
        key: The input's name, unique in a data set.
        tokens: A batch of one.
        label: Its class.
    """

    key: str
    tokens: Tokens
    label: Label = None


def id_type(spec: TokenSpec) -> np.dtype:
    """The smallest unsigned integer that holds every id."""
    return np.min_scalar_type(max(spec.codebook_sizes) - 1)


def schema(spec: TokenSpec) -> pa.Schema:
    """Columns of a shard: ids are ``[T, Q]``, row-major; ``shape`` is the grid that T flattens."""
    import pyarrow as pa

    tensor = {"name": pa.string(), "dtype": pa.string(), "shape": pa.list_(pa.int64()), "data": pa.binary()}
    return pa.schema(
        {
            "key": pa.string(),
            NUMBER: pa.int64(),
            NAME: pa.string(),
            "ids": pa.list_(pa.from_numpy_dtype(id_type(spec))),
            "shape": pa.list_(pa.int64()),
            "names": pa.list_(pa.string()),
            "side": pa.list_(pa.struct(list(tensor.items()))),
        }
    )


def checked(item: Item, spec: TokenSpec) -> Item:
    """The same item on the CPU.

    Raises:
        TypeError: If a key is no string, a label neither number nor name, or a side tensor of a type that has no name here.
        ValueError: If the tokens are not one item of that spec, or share tables with other items.
    """
    key, tokens, label = item.key, item.tokens, item.label
    if not isinstance(key, str) or not key:
        raise TypeError(f"key must be a name, got {key!r}")
    if tokens.spec != spec:
        raise ValueError(f"{key}: a shard holds tokens of one spec, {spec.fingerprint}, got {tokens.spec.fingerprint}")
    if len(tokens) != 1:
        raise ValueError(f"{key}: tokens must hold one item, got {len(tokens)}")
    if tokens.shared:
        raise ValueError(
            f"{key}: tokens share {sorted(tokens.shared)} with their batch: a dynamic vocabulary has no meaning in a data set"
        )
    if label is not None and (isinstance(label, bool) or not isinstance(label, (int, str))):
        raise TypeError(f"{key}: label must be a whole number, a name or None, got {label!r}")
    for name, tensor in tokens.side.items():
        if tensor.dtype not in _DTYPES.values():
            raise TypeError(f"{key}: side[{name!r}] must have a dtype of {', '.join(_DTYPES)}, got {tensor.dtype}")
    return item if tokens.device.type == "cpu" else Item(key, tokens.to("cpu"), label)


def num_bytes(item: Item) -> int:
    """About what an item takes in memory as columns."""
    tokens = item.tokens
    side = sum(tensor.numel() * tensor.itemsize for tensor in tokens.side.values())
    return int(tokens.lengths[0]) * tokens.spec.num_codebooks * id_type(tokens.spec).itemsize + side + len(item.key)


def to_table(items: Sequence[Item], spec: TokenSpec) -> pa.Table:
    """Items, each :func:`checked`, as a table."""
    import pyarrow as pa

    rows = [item.tokens.ids[0, : int(item.tokens.lengths[0])].numpy().astype(id_type(spec)) for item in items]
    offsets = np.cumsum([0, *(row.size for row in rows)])
    columns: dict[str, Any] = {
        "key": [item.key for item in items],
        NUMBER: [item.label if isinstance(item.label, int) else None for item in items],
        NAME: [item.label if isinstance(item.label, str) else None for item in items],
        "ids": pa.ListArray.from_arrays(
            pa.array(offsets, pa.int32()), pa.array(np.concatenate([row.ravel() for row in rows]))
        ),
        "shape": [item.tokens.shapes[0].tolist() for item in items],
        "names": [item.tokens.names for item in items],
        "side": [[_packed(name, tensor[0]) for name, tensor in item.tokens.side.items()] for item in items],
    }
    return pa.table(columns, schema=schema(spec))


def from_row(ids: np.ndarray, row: dict[str, Any], spec: TokenSpec) -> Item:
    """The item of a row.

    Args:
        ids: ``[T * Q]``.
        row: The other columns.
        spec: Of the shard.

    Raises:
        ValueError: If ids are outside their codebooks or are not as many as the grid has, or a side tensor is damaged.
    """
    shape, columns = row["shape"], spec.num_codebooks
    if len(shape) != len(spec.axes) or min(shape) < 0 or math.prod(shape) * columns != len(ids):
        raise ValueError(f"{len(ids)} ids are not {columns} for each step of the grid {shape}")
    tokens = Tokens(
        torch.from_numpy(ids.astype(np.int64)).reshape(1, -1, columns),
        spec,
        torch.tensor([shape]),
        {side["name"]: _unpacked(side) for side in row["side"]},
        names=None if row["names"] is None else tuple(row["names"]),
    )
    return Item(row["key"], tokens, row[NUMBER] if row[NUMBER] is not None else row[NAME])


def _packed(name: str, tensor: Tensor) -> dict[str, Any]:
    data = tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()
    return {
        "name": name,
        "dtype": str(tensor.dtype).removeprefix("torch."),
        "shape": list(tensor.shape),
        "data": data,
    }


def _unpacked(side: dict[str, Any]) -> Tensor:
    """A side tensor with the batch's axis of one item."""
    name, dtype, shape, data = (side[field] for field in ("name", "dtype", "shape", "data"))
    if dtype not in _DTYPES or any(extent < 0 for extent in shape):
        raise ValueError(f"side[{name!r}] has dtype {dtype!r} and shape {shape}")
    if len(data) != math.prod(shape) * _DTYPES[dtype].itemsize:
        raise ValueError(f"side[{name!r}] holds {len(data)} bytes, its shape {shape} of {dtype} needs others")
    flat = torch.tensor(np.frombuffer(data, dtype=np.uint8))
    return flat.view(_DTYPES[dtype]).reshape(1, *shape)
