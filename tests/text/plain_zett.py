"""A hypernetwork as published, on ``transformers``' RoBERTa, with the published names: what ours is compared with."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import RobertaConfig, RobertaModel

CONFIG = {
    "n_embd": 12, "original_vocab_size": 20, "hn_hidden_size": 16, "hn_intermediate_size": 24, "hn_n_layers": 2,
    "hn_num_attention_heads": 4, "hn_surface_maxlen": 5, "hn_n_extra_tokens": 3, "hn_rescale_embeddings": True,
    "hn_embed_using_source_embeddings": True, "hn_model_type": "roberta", "pad_token_id": 1,
}  # fmt: skip


class Scale(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.w, self.b = nn.Parameter(torch.randn(1, dim)), nn.Parameter(torch.randn(1, dim))


class Block(nn.Module):
    def __init__(self, dim: int, inner: int) -> None:
        super().__init__()
        self.dense1, self.dense2, self.ln = nn.Linear(dim, inner), nn.Linear(inner, dim), nn.LayerNorm(dim, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        inner = F.gelu(self.dense1(x), approximate="tanh")
        return self.ln(F.gelu(self.dense2(inner), approximate="tanh") + x)


class PlainZett(nn.Module):
    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        hidden, inner, dim = config["hn_hidden_size"], config["hn_intermediate_size"], config["n_embd"]
        self.untied, self.size = config.get("separate_out_embeddings", False), config["original_vocab_size"]
        width, self.pad = dim * (1 + self.untied), config["pad_token_id"]
        self.model = RobertaModel(
            RobertaConfig(
                vocab_size=self.pad + 1, hidden_size=hidden, num_hidden_layers=config["hn_n_layers"],
                num_attention_heads=config["hn_num_attention_heads"], intermediate_size=inner, type_vocab_size=1,
                max_position_embeddings=30, layer_norm_eps=1e-5, pad_token_id=self.pad, bos_token_id=0, eos_token_id=0,
            ),
            add_pooling_layer=False,
        ).eval()  # fmt: skip
        self.fallback_embeddings = nn.Embedding(config["hn_n_extra_tokens"], width)
        self.input_projection = nn.Sequential(nn.Linear(width, hidden), Block(hidden, inner))
        self.output_projection = nn.Sequential(Block(hidden, inner), nn.Linear(hidden, dim))
        self.in_scaler, self.scaler = Scale(width), Scale(dim)
        if self.untied:
            self.output_projection_out = nn.Sequential(Block(hidden, inner), nn.Linear(hidden, dim))
            self.out_scaler = Scale(dim)
        self.bias_projection = nn.Linear(hidden, 1)
        if config.get("hn_embed_lang_id"):
            self.lang_embeddings = nn.Embedding(config["n_langs"], hidden)

    def forward(self, forms: Tensor, source: Tensor, language: int | None) -> tuple[Tensor, Tensor | None, Tensor]:
        rows = self.in_scaler.w * source[forms.clamp(max=self.size - 1)] + self.in_scaler.b
        extra = self.fallback_embeddings((forms - self.size).clamp(min=0))
        x = self.input_projection(torch.where((forms >= self.size)[..., None], extra, rows))
        mask, embeddings = forms != self.pad, self.model.embeddings
        if language is not None:
            vector = self.lang_embeddings.weight[language] - embeddings.token_type_embeddings.weight[0]
            vector = vector - embeddings.position_embeddings.weight[forms.shape[1]]
            x = torch.cat([x, vector.expand(len(x), 1, -1)], dim=1)
            mask = F.pad(mask, (0, 1), value=True)
        places = torch.arange(x.shape[1]).expand(len(x), -1)
        z = self.model(inputs_embeds=x, attention_mask=mask, position_ids=places).last_hidden_state[:, 0]
        outputs = self.output_projection_out(z) * self.out_scaler.w + self.out_scaler.b if self.untied else None
        return self.output_projection(z) * self.scaler.w + self.scaler.b, outputs, self.bias_projection(z)[:, 0]
