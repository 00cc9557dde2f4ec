"""Networks that live in a folder, on disk or on the Hugging Face hub: ``config.json`` and ``model.safetensors``."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self, cast

import torch
from huggingface_hub import PyTorchModelHubMixin, hf_hub_download
from safetensors.torch import save_file
from torch import nn

from tokenizers_mm.weights import CONFIG, WEIGHTS, load_into, read_config, tied


class Stored(nn.Module, PyTorchModelHubMixin):
    """A network whose ``__init__`` arguments are plain JSON values and with its weights all that there is to keep.

    The arguments are its config: in cards, recipes and checkpoints alike. Nothing pickled is ever read.
    """

    @property
    def config(self) -> dict[str, Any]:
        """The ``__init__`` arguments as their file reads: lists, not tuples."""
        return json.loads(json.dumps(cast(dict, self._hub_mixin_config) or {}))

    @property
    def device(self) -> torch.device:
        return next((t.device for t in self.parameters()), torch.device("cpu"))

    def save_pretrained(  # type: ignore[override]  # the mixin's options reach it through kwargs
        self, save_directory: str | Path, *, dtype: torch.dtype | None = None, config: dict | None = None, **kwargs: Any
    ) -> str | None:
        """Write ``config.json`` (class name and ``__init__`` arguments) and ``model.safetensors`` to a folder.

        Args:
            save_directory: Folder to write to.
            dtype: Round floating-point weights to this type in the file (``torch.float16`` halves it); loading gives
                float32 again.
            config: Written instead of the network's own.
            **kwargs: Options of ``huggingface_hub``'s ``ModelHubMixin``, among them ``push_to_hub`` and ``repo_id``.
        """
        if dtype is not None:
            return copy.deepcopy(self).to(dtype).save_pretrained(save_directory, config=config, **kwargs)
        config = config or {"class": type(self).__name__, **self.config}
        return super().save_pretrained(save_directory, config=config, **kwargs)

    def load_weights(self, path: str | Path, *, strict: bool = True) -> None:
        """Load a safetensors file of this network's state dict: see :func:`tokenizers_mm.weights.load_into`."""
        load_into(self, path, strict=strict)

    def _save_pretrained(self, save_directory: Path) -> None:
        state = self.state_dict()
        shared = tied(state)
        tensors = {name: t.detach().cpu().contiguous().clone() for name, t in state.items() if name not in shared}
        save_file(tensors, save_directory / WEIGHTS)

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        revision: str | None,
        cache_dir: str | Path | None,
        force_download: bool,
        local_files_only: bool,
        token: str | bool | None,
        map_location: str = "cpu",
        strict: bool = True,
        **model_kwargs: Any,
    ) -> Self:
        """Build from ``config.json`` and load ``model.safetensors``, in evaluation mode.

        Raises:
            FileNotFoundError: If there is no such folder, or a file is missing in it.
            ValueError: If the configuration or the weights are not this class's.
        """

        def find(name: str) -> Path:
            if Path(model_id).is_dir():
                return Path(model_id) / name
            found = hf_hub_download(
                model_id,
                name,
                revision=revision,
                cache_dir=cache_dir,
                force_download=force_download,
                local_files_only=local_files_only,
                token=token,
            )
            return Path(found)

        config = read_config(find(CONFIG))
        if (name := config.pop("class", cls.__name__)) != cls.__name__:
            raise ValueError(f"{model_id}: config.json is for class {name!r}, not {cls.__name__!r}")
        if unknown := set(config) - set(cls._hub_mixin_init_parameters):
            raise ValueError(f"{model_id}: config.json has keys that {cls.__name__} does not take: {sorted(unknown)}")
        network = cls(**{**cls._restored(config, find), **{k: v for k, v in model_kwargs.items() if k != "config"}})
        network.load_weights(find(WEIGHTS), strict=strict)
        return network.to(map_location).eval()

    @classmethod
    def _restored(cls, config: dict[str, Any], find: Callable[[str], Path]) -> dict[str, Any]:
        """Arguments from a configuration; ``find`` gives further files of its folder."""
        return config
