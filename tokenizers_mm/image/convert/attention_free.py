"""Published tokenizers without attention to ours: Open-MAGVIT2 and MaskGIT's VQGAN."""

from __future__ import annotations

from pathlib import Path

from tokenizers_mm.image.convert.layouts import averaged, level_arguments, ours
from tokenizers_mm.image.convert.vqgan import codebook_of, save_converted
from tokenizers_mm.image.maskgit_vq import MaskGITVQ
from tokenizers_mm.image.open_magvit2 import OpenMAGVIT2
from tokenizers_mm.published import read_checkpoint


def convert_open_magvit2(
    source: str | Path, output: str | Path, *, config: str | Path | None = None, allow_pickle: bool = False
) -> Path:
    """Turn a checkpoint of Open-MAGVIT2 (``imagenet_256_L.ckpt``, ``pretrain256_*.ckpt``) into a folder that ``load`` reads.

    The weight averages are taken where the file has them.

    Args:
        source: Checkpoint, or ``.safetensors`` with the same keys.
        output: Folder to write ``config.json`` and ``model.safetensors`` to.
        config: Not needed: every size is read from the weights.
        allow_pickle: Load a file that holds more than tensors and plain values. This can run any code that the file carries:
            only for files whose author you trust.

    Returns:
        The folder.

    Raises:
        FileNotFoundError: If ``source`` is not a file.
        ValueError: If the file cannot be read safely, or keys are missing, unknown or of the wrong shape.

    Source:
        https://github.com/TencentARC/SEED-Voken
    """
    tensors = ours(averaged(read_checkpoint(source, allow_pickle=allow_pickle)))
    arguments = level_arguments(tensors, "encoder") | {"bits": len(tensors["encoder.conv_out.weight"])}
    return save_converted(OpenMAGVIT2, arguments, tensors, output, "Open-MAGVIT2")


def convert_maskgit(
    source: str | Path, output: str | Path, *, config: str | Path | None = None, allow_pickle: bool = False
) -> Path:
    """Turn ``maskgit-vqgan-imagenet-f16-256.bin`` into a folder; arguments and errors as in :func:`convert_open_magvit2`.

    Source:
        https://huggingface.co/fun-research/TiTok
    """
    tensors = ours(read_checkpoint(source, allow_pickle=allow_pickle))
    codebook = codebook_of(tensors, "codebook", "MaskGIT's VQGAN")
    renamed = {"quantizer.codebook.weight" if key == "codebook" else key: t for key, t in tensors.items()}
    arguments = level_arguments(tensors, "encoder") | {"codebook_size": len(codebook), "dim": codebook.shape[1]}
    return save_converted(MaskGITVQ, arguments, renamed, output, "MaskGIT's VQGAN")
