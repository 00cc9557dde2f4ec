"""The language models that EnCodec's authors published beside the codec: their files carry our keys already."""

from __future__ import annotations

from pathlib import Path

import torch

from tokenizers_mm.audio.ecdc_lm import EcdcLM
from tokenizers_mm.published import fit, read_checkpoint

# Codebooks of a published model -> past steps that it sees, 3.5 seconds at 75 and 150 steps/s, which the files do not hold.
PAST_CONTEXT = {32: 262, 16: 525}


def convert_encodec_lm(
    source: str | Path, output: str | Path, *, config: str | Path | None = None, allow_pickle: bool = False
) -> Path:
    """Turn EnCodec's published language model into a folder that ``EcdcLM.load`` reads.

    Args:
        source: ``encodec_lm_24khz-1608e3c0.th`` or ``encodec_lm_48khz-7add9fc3.th``, or ``.safetensors`` with the same keys.
        output: Folder to write ``config.json`` and ``model.safetensors`` to.
        config: Must be None: the published models have no configuration file.
        allow_pickle: Load a file that holds more than tensors, which can run any code in it.

    Returns:
        The folder.

    Raises:
        FileNotFoundError: If ``source`` is not a file.
        ValueError: If it cannot be read safely, or is not one of the published models.

    Source:
        https://github.com/facebookresearch/encodec
    """
    if config is not None:
        raise ValueError(f"config must not be given: EnCodec's language models have none, got {config}")
    tensors = read_checkpoint(source, allow_pickle=allow_pickle)
    codebooks = sum(key.startswith("linears.") and key.endswith(".weight") for key in tensors)
    if codebooks not in PAST_CONTEXT:
        raise ValueError(
            f"{source} must be a language model of EnCodec, with 32 codebooks (24 kHz) or 16 (48 kHz), got {codebooks}"
        )
    with torch.device("meta"):
        model = EcdcLM(num_codebooks=codebooks, past_context=PAST_CONTEXT[codebooks])
    model.load_state_dict(fit(tensors, model.state_dict(), "EcdcLM"), assign=True)
    return model.save(output)
