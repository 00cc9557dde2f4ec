"""Published Chronos-Bolt checkpoints over ``transformers``' T5: patches of the past to quantiles of the future, nothing drawn.

Ansari et al., "Chronos: Learning the Language of Time Series", 2024 (its successor Chronos-Bolt, 2024). Horizons beyond the
published 64 go on from each of the quantiles in turn, as the authors' pipeline does.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import torch
from einops import rearrange, repeat
from torch import Tensor, nn
from torch.nn import functional as F

from tokenizers_mm.timeseries.forecast.metrics import LEVELS
from tokenizers_mm.weights import CONFIG, WEIGHTS, fill, read_config, read_weights

_TIED = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
_NEEDED = ("context_length", "prediction_length", "input_patch_size", "input_patch_stride", "quantiles")


class ResidualMLP(nn.Module):
    """``output(relu(hidden(x))) + residual(x)``: ``[..., in] -> [..., out]``."""

    def __init__(self, dim_in: int, hidden: int, dim_out: int) -> None:
        super().__init__()
        self.hidden_layer = nn.Linear(dim_in, hidden)
        self.output_layer = nn.Linear(hidden, dim_out)
        self.residual_layer = nn.Linear(dim_in, dim_out)

    def forward(self, x: Tensor) -> Tensor:
        return self.output_layer(F.relu(self.hidden_layer(x))) + self.residual_layer(x)


class ChronosBolt(nn.Module):
    """An encoder-decoder from patches of values and masks to quantiles of one block of the future.

    Args:
        config: Of the checkpoint, as in its ``config.json``: T5's sizes and ``chronos_config``.

    Raises:
        ValueError: If it is not Chronos-Bolt's, or its quantiles are not :data:`~tokenizers_mm.timeseries.forecast.LEVELS`.
        ImportError: If ``transformers`` is not installed.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        settings = config.get("chronos_config")
        if not isinstance(settings, dict) or (missing := [key for key in _NEEDED if key not in settings]):
            found = f"lacks {', '.join(missing)}" if isinstance(settings, dict) else f"is {settings!r}"
            raise ValueError(f"expected the chronos_config of a Chronos-Bolt, this one {found}")
        if tuple(settings["quantiles"]) != LEVELS:
            raise ValueError(f"expected quantiles {LEVELS}, got {settings['quantiles']}")
        if config.get("dense_act_fn", "relu") != "relu":
            raise ValueError(f"expected dense_act_fn 'relu', got {config['dense_act_fn']!r}")
        try:
            from transformers import T5Config, T5Model
        except ImportError:
            raise ImportError("Chronos-Bolt needs transformers: pip install 'tokenizers_mm[peers]'") from None
        self.settings, self.use_reg = settings, bool(settings.get("use_reg_token", False))
        self.context_length, self.block = int(settings["context_length"]), int(settings["prediction_length"])
        self.patch_size, self.stride = int(settings["input_patch_size"]), int(settings["input_patch_stride"])
        t5 = T5Config(**{**config, "vocab_size": 2 if self.use_reg else 1})
        self.start = int(t5.decoder_start_token_id or 0)
        self.network = T5Model(t5)
        self.input_patch_embedding = ResidualMLP(2 * self.patch_size, t5.d_ff, t5.d_model)
        self.output_patch_embedding = ResidualMLP(t5.d_model, t5.d_ff, len(LEVELS) * self.block)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Self:
        """Load a downloaded checkpoint: ``config.json`` and ``model.safetensors``, every tensor of it and no other.

        Raises:
            FileNotFoundError: If a file is missing.
            ValueError: If it is no Chronos-Bolt.
            ImportError: If ``transformers`` is not installed.
        """
        path = Path(folder) / WEIGHTS
        model, tensors = cls(read_config(Path(folder) / CONFIG)), read_weights(path)
        tensors.pop("lm_head.weight", None)  # left over from T5 in published files, never used
        for key in _TIED:
            if "shared.weight" in tensors:
                tensors.setdefault(key, tensors["shared.weight"])
        inside = ("shared.", "encoder.", "decoder.")
        fill(model, {f"network.{k}" if k.startswith(inside) else k: v for k, v in tensors.items()}, path)
        return model.eval()

    def forward(self, past: Tensor) -> Tensor:
        """Quantiles ``[n, 9, prediction_length]`` of series ``[n, N]``, NaN where missing."""
        seen = past[:, -self.context_length :].float()
        mean = seen.nanmean(dim=1, keepdim=True).nan_to_num(nan=0.0)
        deviation = (seen - mean).square().nanmean(dim=1, keepdim=True).sqrt().nan_to_num(nan=1.0)
        deviation = torch.where(deviation == 0, 1e-5, deviation)
        patches = F.pad((seen - mean) / deviation, (-seen.shape[1] % self.patch_size, 0), value=float("nan"))
        patches = patches.unfold(1, self.patch_size, self.stride)  # n x patches x patch_size
        observed = ~patches.isnan()
        x = self.input_patch_embedding(torch.cat([patches.nan_to_num(nan=0.0), observed.float()], dim=-1))
        mask = observed.any(dim=-1)
        if self.use_reg:
            reg = self.network.shared(torch.ones(len(x), 1, dtype=torch.long, device=x.device))
            x, mask = torch.cat([x, reg], dim=1), F.pad(mask, (0, 1), value=True)
        start = torch.full((len(x), 1), self.start, device=x.device)
        found = self.network(inputs_embeds=x, attention_mask=mask.long(), decoder_input_ids=start, use_cache=False)
        heads = rearrange(self.output_patch_embedding(found.last_hidden_state), "n 1 (q h) -> n q h", q=len(LEVELS))
        return heads * deviation[..., None] + mean[..., None]

    @torch.no_grad()
    def predict(self, past: Tensor, horizon: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Eleven equally likely paths ``[B, C, horizon, 11]`` of series ``[B, C, N]``, whose deciles are the predicted quantiles.

        Quantiles that cross are put in order, at the end.

        Raises:
            ValueError: If the horizon is not positive.
        """
        if horizon < 1:
            raise ValueError(f"horizon must be at least 1, got {horizon}")
        rows = past.flatten(0, 1)
        pieces = [self(rows)]
        rows = repeat(rows[:, -self.context_length :], "n t -> n q t", q=len(LEVELS))
        while len(pieces) * self.block < horizon:
            rows = torch.cat([rows, pieces[-1]], dim=-1)[..., -self.context_length :]
            futures = rearrange(self(rows.flatten(0, 1)), "(n p) q h -> n (p q) h", n=len(rows))
            pieces.append(torch.quantile(futures, futures.new_tensor(LEVELS), dim=1).transpose(0, 1))
        quantiles = (
            rearrange(torch.cat(pieces, dim=-1)[..., :horizon], "(b c) q h -> b c h q", b=len(past)).sort().values
        )
        return torch.cat([quantiles[..., :1], quantiles, quantiles[..., -1:]], dim=-1)
