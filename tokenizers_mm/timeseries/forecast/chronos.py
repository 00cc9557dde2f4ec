"""Published Chronos-T5 checkpoints through ``transformers``: sample paths of the future, as the authors' pipeline draws them.

Ansari et al., "Chronos: Learning the Language of Time Series", 2024. Horizons beyond the published 64 go on from the median of
the paths, with a new scale.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Self

import torch
from einops import rearrange
from torch import Tensor, nn

from tokenizers_mm.timeseries.binning import ChronosBins
from tokenizers_mm.timeseries.scaling import mean_scale

_TOKENIZER = "MeanScaleUniformBins"


class ChronosT5(nn.Module):
    """An encoder-decoder over the ids of bins.

    Args:
        network: ``T5ForConditionalGeneration`` of ``transformers``.
        settings: ``chronos_config`` of its ``config.json``.

    Raises:
        ValueError: If the settings name another tokenizer, or lack a value.
    """

    def __init__(self, network: Any, settings: dict[str, Any]) -> None:
        super().__init__()
        if settings.get("tokenizer_class") != _TOKENIZER or settings.get("model_type") != "seq2seq":
            raise ValueError(
                f"expected a seq2seq model of {_TOKENIZER}, got {settings.get('model_type')!r} of "
                f"{settings.get('tokenizer_class')!r}"
            )
        needed = ("n_tokens", "n_special_tokens", "context_length", "prediction_length", "pad_token_id", "eos_token_id")
        if missing := [key for key in needed if key not in settings]:
            raise ValueError(f"chronos_config lacks {', '.join(missing)}")
        limits = settings.get("tokenizer_kwargs", {})
        self.network, self.settings = network, settings
        self.bins = ChronosBins(
            settings["n_tokens"],
            settings["n_special_tokens"],
            low=limits.get("low_limit", -15.0),
            high=limits.get("high_limit", 15.0),
        )

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Self:
        """Load a downloaded checkpoint: ``config.json`` and ``model.safetensors``.

        Raises:
            FileNotFoundError: If a file is missing.
            ValueError: If it is no Chronos-T5, or lacks a tensor or has one too many.
            ImportError: If ``transformers`` is not installed.
        """
        for name in ("config.json", "model.safetensors"):
            if not (Path(folder) / name).is_file():
                raise FileNotFoundError(f"no {name} in {folder}: expected a downloaded Chronos-T5 checkpoint")
        settings = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8")).get("chronos_config")
        if not isinstance(settings, dict):
            raise ValueError(f"{folder}/config.json has no chronos_config: it is no Chronos checkpoint")
        try:
            from transformers import T5ForConditionalGeneration
        except ImportError:
            raise ImportError("Chronos-T5 needs transformers: pip install 'tokenizers_mm[peers]'") from None
        loaded: Any = T5ForConditionalGeneration.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, output_loading_info=True, ignore_mismatched_sizes=True
        )  # what does not fit would be drawn at random with a warning
        network, found = loaded
        if wrong := {key: sorted(map(str, names)) for key, names in found.items() if names}:
            raise ValueError(f"{folder}/model.safetensors does not fit its config.json: {wrong}"[:500])
        return cls(network, settings).eval()

    def context(self, past: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What the encoder reads of series ``[B, N]``: ids and mask ``[B, n]``, end of sequence last, and scales ``[B]``."""
        seen = past[:, -self.settings["context_length"] :].float()
        scale = mean_scale(seen)
        ids, mask = self.bins.quantize(seen / scale[:, None]), ~seen.isnan()
        if self.settings.get("use_eos_token", True):
            ids = torch.cat([ids, ids.new_full((len(ids), 1), self.settings["eos_token_id"])], dim=1)
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        return ids, mask, scale

    @torch.no_grad()
    def predict(
        self,
        past: Tensor,
        horizon: int,
        *,
        samples: int | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Sample paths ``[B, C, horizon, samples]`` of series ``[B, C, N]``; by default as the checkpoint's settings say.

        Args:
            past: NaN where missing.
            horizon: Values ahead.
            samples: Paths.
            temperature: Of the draws.
            top_k: Draw from so many of the likeliest bins.
            top_p: Draw from the likeliest bins that have this probability together.
            generator: Seeds torch's own, from which ``transformers`` draws; that one goes on as before afterwards.

        Raises:
            ValueError: If the horizon is not positive.
        """
        if horizon < 1:
            raise ValueError(f"horizon must be at least 1, got {horizon}")
        draws = {"num_samples": samples, "temperature": temperature, "top_k": top_k, "top_p": top_p}
        defaults = {"num_samples": 20, "temperature": 1.0, "top_k": 50, "top_p": 1.0}
        draws = {key: self.settings.get(key, defaults[key]) if value is None else value for key, value in draws.items()}
        rows, pieces, left = past.flatten(0, 1), [], horizon
        with torch.random.fork_rng(enabled=generator is not None):
            if generator is not None:
                torch.manual_seed(int(torch.randint(2**62, (), generator=generator, device=generator.device)))
            while left > 0:
                paths = self._draw(rows, draws)
                pieces.append(paths[..., :left])
                left -= paths.shape[-1]
                rows = torch.cat([rows, paths.median(dim=1).values], dim=1)
        return rearrange(torch.cat(pieces, dim=-1), "(b c) s h -> b c h s", b=len(past))

    def _draw(self, rows: Tensor, draws: dict[str, Any]) -> Tensor:
        """One block of paths, ``[n, samples, prediction_length]``."""
        ids, mask, scale = self.context(rows)
        length = self.settings["prediction_length"]
        found = self.network.generate(
            input_ids=ids,
            attention_mask=mask.long(),
            min_new_tokens=length,
            max_new_tokens=length,
            do_sample=True,
            num_return_sequences=draws["num_samples"],
            temperature=draws["temperature"],
            top_k=draws["top_k"],
            top_p=draws["top_p"],
            eos_token_id=self.settings["eos_token_id"],
            pad_token_id=self.settings["pad_token_id"],
        )
        written = rearrange(found[:, 1:], "(n s) h -> n s h", n=len(rows))  # the first id only starts the decoder
        return self.bins.values(written) * scale[:, None, None]
