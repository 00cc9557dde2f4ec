"""Sharded training: every process keeps a part of each weight, gradient and moment, and gathers a block when it computes it.

Rajbhandari et al., "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models", 2020, by PyTorch's ``fully_shard``
(Zhao et al., "PyTorch FSDP: Experiences on Scaling Fully Sharded Data Parallel", 2023). Checkpoints are whole, and the same with
shards and without: a run may go on either way.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import ModelParallelStrategy, StrategyRegistry
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer
from torch.utils._pytree import tree_map_only

NAME = "fsdp2"


class ShardedStrategy(ModelParallelStrategy):
    """Shards over all processes what a module's ``configure_model`` gives to :func:`shard`; ``trainer.strategy=fsdp2``.

    Runs on GPUs and, with gloo, on CPUs. All processes must build the same weights, as they do from one seed; each reads whole
    checkpoints, the first one writes them.

    Args:
        process_group_backend: Such as ``"nccl"`` or ``"gloo"``; by default the device's.
    """

    def __init__(self, process_group_backend: str | None = None) -> None:
        super().__init__(
            tensor_parallel_size=1, save_distributed_checkpoint=False, process_group_backend=process_group_backend
        )

    def setup(self, trainer: Trainer) -> None:
        if not is_overridden("configure_model", self.lightning_module):
            module = type(self.lightning_module).__name__
            raise TypeError(
                f"trainer.strategy={NAME} trains language models (LanguageModelModule), got {module}; use ddp"
            )
        for loop in (trainer.fit_loop.epoch_loop.val_loop, trainer.validate_loop):
            loop.inference_mode = False  # what is gathered there first could not be trained
        super().setup(trainer)

    def setup_environment(self) -> None:
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    @property
    def mesh(self) -> DeviceMesh:
        """All processes in a row."""
        return self.device_mesh["data_parallel"]

    @property
    def lightning_restore_optimizer(self) -> bool:
        return True

    def lightning_module_state_dict(self) -> dict[str, Any]:
        assert self.lightning_module is not None
        return self._for_file(self.lightning_module.state_dict())

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        inner = optimizer.optimizer if isinstance(optimizer, LightningOptimizer) else optimizer
        return self._for_file(inner.state_dict())

    def _for_file(self, state: dict[str, Any]) -> dict[str, Any]:
        """A state with whole tensors in the first process, nothing in the others, all of which have to ask."""
        found = tree_map_only(DTensor, whole, state)
        return found if self.is_global_zero else {}

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        return torch.load(checkpoint_path, mmap=True, map_location="cpu", weights_only=weights_only)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        assert self.lightning_module is not None
        own, state = self.lightning_module.state_dict(), checkpoint["state_dict"]
        self.lightning_module.load_state_dict({k: _like(v, own.get(k)) for k, v in state.items()}, strict=strict)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            moments = {
                number: {k: v if v.ndim == 0 else _like(v, parameters[number]) for k, v in of_one.items()}
                for number, of_one in state["state"].items()
            }
            optimizer.load_state_dict({**state, "state": moments})


StrategyRegistry.register(NAME, ShardedStrategy, description="FSDP2: shards of weights, gradients and moments")


def shard(network: nn.Module, mesh: DeviceMesh) -> None:
    """Shard a network in place: each block by itself, the rest together.

    Blocks are the items of its outermost lists ``blocks`` or ``layers``, as transformers call them; they run by being called, all
    else inside the network's ``loss``. Weights are freed after each forward pass, validation's too, so that what a module holds
    are always shards.

    Args:
        network: On the CPU, with the same weights in all processes.
        mesh: Processes, in one dimension.

    Raises:
        ValueError: If a weight is a scalar, which can't be cut.
    """
    for block in _blocks(network):
        fully_shard(block, mesh=mesh, reshard_after_forward=True)
    fully_shard(network, mesh=mesh, reshard_after_forward=True)
    register_fsdp_forward_method(network, "loss")


def _blocks(module: nn.Module) -> list[nn.Module]:
    found: list[nn.Module] = []
    for name, child in module.named_children():
        found += child if isinstance(child, nn.ModuleList) and name in ("blocks", "layers") else _blocks(child)
    return found


def outline(network: nn.Module) -> nn.Module:
    """A copy without values of its weights, for :func:`assemble` after the network is sharded."""
    return _copy_with(network, [p.detach().to("meta") for p in network.parameters()])


def assemble(network: nn.Module, blank: nn.Module) -> nn.Module:
    """A copy of the outline of a sharded network with its whole weights, on the CPU; ties among them are kept.

    All processes have to ask; only the first one's has values.
    """
    weights = [whole(cast(DTensor, p.detach())) for p in network.parameters()]
    if torch.distributed.get_rank():
        return blank
    found = _copy_with(blank, weights)
    for buffer, value in zip(found.buffers(), network.buffers(), strict=True):
        buffer.copy_(value)
    return found.eval()


def _copy_with(network: nn.Module, weights: Sequence[Tensor]) -> nn.Module:
    """A deep copy that has other parameters."""
    pairs = zip(network.parameters(), weights, strict=True)
    return copy.deepcopy(network, {id(old): nn.Parameter(new, old.requires_grad) for old, new in pairs})


def whole(tensor: DTensor) -> Tensor:
    """A sharded tensor gathered on the CPU of the first process, and an empty one in the others."""
    found = tensor.full_tensor()
    return found.cpu() if not torch.distributed.get_rank() else found.new_empty(0, device="cpu")


def _like(value: Any, model: Tensor | None) -> Any:
    """A whole tensor, cut as ``model`` is; anything else as it is."""
    if not isinstance(value, Tensor) or not isinstance(model, DTensor):
        return value
    return distribute_tensor(value.to(model.device), model.device_mesh, model.placements, src_data_rank=None)
