"""EnCodec's language model, which predicts the codes of a step from the steps before, so that ``.ecdc`` files get smaller.

"High Fidelity Neural Audio Compression" (Défossez et al., 2022), section 3.3. An arithmetic decoder needs bit for
bit the probabilities that the encoder had, so every operation here happens in the published order: keys and values of the past
are projected anew at each step, and softmax runs over an inner axis.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tokenizers_mm.weights import CONFIG, WEIGHTS, load_into, read_config

MAX_PERIOD = 10000.0  # of the positions' sinusoids, in steps
State = tuple[list[Tensor], int]
"""What each layer remembers, ``[B, past, D]`` each, and how many steps have passed."""


class EcdcLM(nn.Module):
    """Causal transformer over steps of codes; all codebooks of a step are predicted at once.

    Args:
        num_codebooks: Most codebooks that a step may have; fewer are taken as the first ones.
        codebook_size: Entries of each codebook, V.
        dim: Width, D.
        heads: Attention heads.
        layers: Transformer layers.
        past_context: Steps that attention sees back, the current one not counted: 3.5 seconds, 262 at 75 steps/s.

    Source:
        https://github.com/facebookresearch/encodec
    """

    def __init__(
        self,
        num_codebooks: int = 32,
        codebook_size: int = 1024,
        dim: int = 200,
        heads: int = 8,
        layers: int = 5,
        past_context: int = 262,
    ) -> None:
        super().__init__()
        self.config = {
            "num_codebooks": num_codebooks,
            "codebook_size": codebook_size,
            "dim": dim,
            "heads": heads,
            "layers": layers,
            "past_context": past_context,
        }
        self.num_codebooks, self.past_context = num_codebooks, past_context
        self.transformer = nn.ModuleDict(
            {
                "norm_in": nn.LayerNorm(dim),
                "layers": nn.ModuleList(_Layer(dim, heads) for _ in range(layers)),
            }
        )
        self.emb = nn.ModuleList(nn.Embedding(codebook_size + 1, dim) for _ in range(num_codebooks))
        self.linears = nn.ModuleList(nn.Linear(dim, codebook_size) for _ in range(num_codebooks))

    def forward(self, ids: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Probabilities of the codes of each step, given the step before it.

        Args:
            ids: int64 ``[B, T, K]``, the codes one step earlier plus 1; 0 before the first step. K is at most ``num_codebooks``.
            state: What the previous call returned; None at the start.

        Returns:
            Probabilities ``[B, V, K, T]``, and the state for the call that follows.

        Raises:
            ValueError: If there are more codebooks than the model knows.
        """
        if ids.shape[-1] > self.num_codebooks:
            raise ValueError(f"ids must have at most {self.num_codebooks} codebooks, got {list(ids.shape)}")
        embeddings: list[nn.Module] = list(self.emb)[: ids.shape[-1]]
        x = sum((emb(ids[..., k]) for k, emb in enumerate(embeddings)), start=torch.zeros((), device=ids.device))
        layers = cast(nn.ModuleList, self.transformer["layers"])
        past, offset = state or ([x.new_zeros(len(x), 1, x.shape[-1]) for _ in layers], 0)
        x = self.transformer["norm_in"](x) + _positions(x.shape[1], x.shape[2], offset, x.device)
        memory = []
        for layer, before in zip(layers, past, strict=True):
            seen = torch.cat([before, x], dim=1)
            memory.append(seen[:, -self.past_context :])
            x = layer(x, seen, self.past_context)
        logits = torch.stack([linear(x) for linear in list(self.linears)[: ids.shape[-1]]], dim=1)  # [B, K, T, V]
        return torch.softmax(logits.permute(0, 3, 1, 2), dim=1), (memory, offset + ids.shape[1])

    def save(self, folder: str | Path) -> Path:
        """Write ``config.json`` and ``model.safetensors``."""
        from safetensors.torch import save_file

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / CONFIG).write_text(json.dumps({"class": type(self).__name__, **self.config}, indent=2) + "\n")
        save_file(
            {key: tensor.detach().cpu().contiguous() for key, tensor in self.state_dict().items()}, folder / WEIGHTS
        )
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> EcdcLM:
        """A model that :meth:`save` or ``mmtok convert encodec-lm`` wrote, in evaluation mode.

        Raises:
            FileNotFoundError: If a file is missing.
            ValueError: If the folder holds something else.
        """
        config = read_config(Path(folder) / CONFIG)
        if (name := config.pop("class", None)) != cls.__name__:
            raise ValueError(f"{Path(folder) / CONFIG}: class must be {cls.__name__!r}, got {name!r}")
        try:
            with torch.device("meta"):
                model = cls(**config)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"{Path(folder) / CONFIG}: {cls.__name__} refuses it: {error}") from None
        model.to_empty(device="cpu")
        load_into(model, Path(folder) / WEIGHTS)
        return model.eval()


class _Layer(nn.Module):
    """Attention over past and present, then a feed-forward network; LayerNorm after each."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.linear1, self.linear2 = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)

    def forward(self, x: Tensor, seen: Tensor, past_context: int) -> Tensor:
        """``x [B, T, D]`` after attending to ``seen [B, past + T, D]``, whose end is ``x`` itself."""
        total = seen.shape[1]
        distance = torch.arange(total - x.shape[1], total, device=x.device)[:, None] - torch.arange(
            total, device=x.device
        )
        hidden = (distance < 0) | (distance > past_context)
        x = self.norm1(x + self.self_attn(x, seen, seen, attn_mask=hidden, need_weights=False)[0])
        return self.norm2(x + self.linear2(F.gelu(self.linear1(x))))


def _positions(steps: int, dim: int, offset: int, device: torch.device) -> Tensor:
    """Sinusoids ``[1, T, D]`` of the positions from ``offset``: all cosines, then all sines."""
    index = torch.arange(dim // 2, device=device).view(1, 1, -1)
    phase = (torch.arange(steps, device=device).view(1, -1, 1) + offset) / MAX_PERIOD ** (index / (dim // 2 - 1))
    return torch.cat([phase.cos(), phase.sin()], dim=-1)


def quantised_cdf(probabilities: Tensor, total_bits: int = 24) -> Tensor:
    """Ends of the whole-number ranges that a distribution's symbols get, at least 2 wide each.

    Args:
        probabilities: float32 ``[V, ...]``, summing to 1 over the first axis.
        total_bits: The ranges fill at most ``2 ** total_bits``.

    Returns:
        int64 ``[V, ...]``: symbol s owns ``[cdf[s - 1], cdf[s])``.
    """
    resolution, narrowest = 1e-8, 2
    rounded = (probabilities / resolution).floor() * resolution
    spare = 1 - narrowest * len(probabilities) / 2**total_bits
    return ((spare * 2**total_bits) * rounded).floor().long().add(narrowest).cumsum(dim=0)
