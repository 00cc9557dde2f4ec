"""Weights of several linear layers with one input as one parameter, so that they are one product.

In state dicts each layer has its own name: files do not tell how a network computes.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn


class Joint(nn.Module):
    """A module with joint weights.

    A subclass names them in ``joint``, ``{parameter: layers}``, and makes each with :meth:`join`.
    """

    joint: ClassVar[dict[str, tuple[str, ...]]]

    def join(self, name: str, inputs: int, *outputs: int) -> None:
        """Make the parameter ``name`` for layers from ``inputs`` features to ``outputs``."""
        self._outputs: dict[str, tuple[int, ...]] = {**getattr(self, "_outputs", {}), name: outputs}
        weight = torch.empty(sum(outputs), inputs)
        setattr(self, name, nn.Parameter(nn.init.uniform_(weight, -(inputs**-0.5), inputs**-0.5)))

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for name, layers in self.joint.items():
            weight: Tensor = destination.pop(prefix + name)
            for layer, part in zip(layers, weight.split(self._outputs[name]), strict=True):
                destination[f"{prefix}{layer}.weight"] = part

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for name, layers in self.joint.items():
            keys = [f"{prefix}{layer}.weight" for layer in layers]
            if all(key in state_dict for key in keys):
                state_dict[prefix + name] = torch.cat([state_dict.pop(key) for key in keys])
        super()._load_from_state_dict(state_dict, prefix, *args)
