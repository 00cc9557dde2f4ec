"""LaBraM's neural tokenizer, VQ-NSP: each electrode's second to one token, by the amplitudes and phases of its spectrum.

Jiang et al., "Large Brain Model for Learning Generic Representations with Tremendous EEG Data in BCI", ICLR 2024. Ours puts the
two predicted spectra together to a waveform, which the published system does not; codes that fall out of use are revived, and
training starts from the mean spectra.
Recordings longer than a window are encoded window by window.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Self, cast

import torch
from einops import rearrange
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn import functional as F

from tokenizers_mm.codec import CodecOutput
from tokenizers_mm.eeg.electrodes import TEN_TWENTY, canonical
from tokenizers_mm.eeg.labram_layers import MAX_PATCHES, SpatialTransformer, TemporalConvolution, start
from tokenizers_mm.eeg.segments import SegmentedCodec
from tokenizers_mm.nn.onednn import Linear
from tokenizers_mm.quantizers import build_quantizer, usage
from tokenizers_mm.tokens import TokenSpec

# The order of the published table of electrodes, whose rows trained weights mean: FP1 is row 1.
_NAMES = """
    FP1 FPZ FP2 AF9 AF7 AF5 AF3 AF1 AFZ AF2 AF4 AF6 AF8 AF10 F9 F7 F5 F3 F1 FZ F2 F4 F6 F8 F10 FT9 FT7 FC5 FC3 FC1 FCZ FC2 FC4
    FC6 FT8 FT10 T9 T7 C5 C3 C1 CZ C2 C4 C6 T8 T10 TP9 TP7 CP5 CP3 CP1 CPZ CP2 CP4 CP6 TP8 TP10 P9 P7 P5 P3 P1 PZ P2 P4 P6 P8 P10
    PO9 PO7 PO5 PO3 PO1 POZ PO2 PO4 PO6 PO8 PO10 O1 OZ O2 O9 CB1 CB2 IZ O10 T3 T5 T4 T6 M1 M2 A1 A2 CFC1 CFC2 CFC3 CFC4 CFC5 CFC6
    CFC7 CFC8 CCP1 CCP2 CCP3 CCP4 CCP5 CCP6 CCP7 CCP8 T1 T2 FTT9H TTP7H TPP9H FTT10H TPP8H TPP10H FP1-F7 F7-T7 T7-P7 P7-O1 FP2-F8
    F8-T8 T8-P8 P8-O2 FP1-F3 F3-C3 C3-P3 P3-O1 FP2-F4 F4-C4 C4-P4 P4-O2"""
ELECTRODES = tuple(_NAMES.split())
ROWS = 129
_MICROVOLTS = 100.0


class LaBraMTokenizer(SegmentedCodec):
    """EEG of named electrodes to one token per electrode and second; by default the published network with 8192 codes of 64.

    ``with_electrodes(names)`` gives the same codec for another montage. Tokens carry their electrodes: either decodes them.

    Args:
        electrodes: Names of the channels in their order, in any spelling that the 10-20 system knows.
        sample_rate: Hz.
        patch_size: Samples of a token.
        window_seconds: Longer recordings are encoded in windows of this length; at most the table's 16 patches.
        quantizer: Mapping for :func:`~tokenizers_mm.quantizers.build_quantizer`.
        code_dim: Width of the codes (the published factory's default is 32, its weights have 64).
        dim: Width of the transformers.
        heads: Of each block.
        encoder_layers: Blocks of the encoder.
        decoder_layers: Blocks of the decoder.
        mean_start: Training starts with heads that predict the first batch's mean spectra. From the published zeros (False) the
            mean is what all gradients ask for at first, which moves the features of all patches to one direction and one code.

    Shape:
        ``x [B, C, N]`` in microvolts; tokens on a grid ``(C, ceil(N / patch_size))``, with ``side["electrodes"]``
        ``[B, W * C]`` and ``side["statistics"]`` ``[B, W * 4]``, mean and deviation of a window's amplitudes and phases.
    """

    own_losses = ("amplitude", "phase")

    def __init__(
        self,
        electrodes: Sequence[str] = TEN_TWENTY,
        sample_rate: int = 200,
        patch_size: int = 200,
        window_seconds: float = 4.0,
        quantizer: Mapping[str, Any] | None = None,
        code_dim: int = 64,
        dim: int = 200,
        heads: int = 10,
        encoder_layers: int = 12,
        decoder_layers: int = 3,
        mean_start: bool = True,
    ) -> None:
        super().__init__()
        self.mean_start = mean_start
        self.patch_size, self.window = patch_size, round(window_seconds * sample_rate)
        if patch_size < 8 or patch_size % 2 or self.window % patch_size:
            raise ValueError(
                f"window_seconds must be whole patches of an even {patch_size} samples, got {window_seconds}"
            )
        if not 1 <= self.window // patch_size <= MAX_PATCHES:
            raise ValueError(
                f"window_seconds must be 1 to {MAX_PATCHES} patches ({MAX_PATCHES * patch_size / sample_rate:g} s), "
                f"got {window_seconds}"
            )
        temporal = TemporalConvolution(patch_size)
        if temporal.width != dim or dim % heads:
            raise ValueError(
                f"dim must be {temporal.width} for patch_size={patch_size} and divide by heads={heads}, got {dim}"
            )
        self.electrodes = tuple(electrodes)
        self.rows = electrode_rows(self.electrodes)
        self.encoder = SpatialTransformer(temporal, dim, encoder_layers, heads, ROWS)
        self.project_in = nn.Sequential(Linear(dim, dim), nn.Tanh(), Linear(dim, code_dim))
        self.quantizer = build_quantizer(
            code_dim, **(quantizer or {"kind": "vq", "codebook_size": 8192, "cosine": True, "kmeans_iters": 10})
        )
        self.decoder = SpatialTransformer(Linear(code_dim, dim), dim, decoder_layers, heads, ROWS)
        self.amplitude = nn.Sequential(Linear(dim, dim), nn.Tanh(), Linear(dim, patch_size))
        self.phase = nn.Sequential(Linear(dim, dim), nn.Tanh(), Linear(dim, patch_size))
        for head in (self.project_in, self.amplitude, self.phase):
            head.apply(start)
        self.spec = TokenSpec(
            modality="eeg",
            codebook_sizes=self.quantizer.codebook_sizes,
            axes=("channel", "time"),
            hop=(1, patch_size),
            sample_rate=sample_rate,
            channels=0,
            scalable="columns" if self.quantizer.scalable else "none",
        )

    @property
    def reading(self) -> dict[str, Any]:
        """Files are read with these electrodes, in this order."""
        return {"montage": list(self.electrodes)}

    def with_electrodes(self, names: Sequence[str]) -> Self:
        """The same codec (weights shared) for channels of other electrodes.

        Raises:
            ValueError: If a name is not in the table.
        """
        view = copy.copy(self)
        view.electrodes, view.rows = tuple(names), electrode_rows(names)
        view._hub_mixin_config = {**self.config, "electrodes": list(names)}
        return view

    # -- training ----------------------------------------------------------------------------------------------------------

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> CodecOutput:
        """Reconstruction of a crop as one window; its own losses compare amplitudes and phases of the patches.

        Raises:
            ValueError: If the crop has more patches than there are embeddings of times.
        """
        patches, rows = self._patches(x), self._rows(x)
        spectrum = torch.fft.fft(patches.float())
        targets, statistics = standardised(spectrum.abs(), spectrum.angle())
        if self.training and self.mean_start:
            self._start_heads(targets)
        quantized = self.quantizer(self._features(patches, rows))
        predicted = self._heads(quantized.features, rows)
        losses = [F.mse_loss(p, t) for p, t in zip(predicted, targets, strict=True)]
        wave = self._wave(predicted, statistics, x.shape[1])[..., : x.shape[-1]]
        stats = usage(quantized.ids, self.spec.codebook_sizes)
        return CodecOutput(wave, quantized.ids, quantized.loss, stats, dict(zip(self.own_losses, losses, strict=True)))

    # -- inference ---------------------------------------------------------------------------------------------------------

    def _check_signal(self, x: Tensor, lengths: Tensor | None, sample_rate: float | None) -> Tensor:
        sizes = super()._check_signal(x, lengths, sample_rate)
        self._rows(x)
        if (sizes[:, 0] != x.shape[1]).any():
            raise ValueError(f"lengths must keep all {x.shape[1]} electrodes, got {sizes.tolist()}")
        return sizes

    def _encode_windows(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        patches, rows = self._patches(x), self._rows(x)
        spectrum = torch.fft.fft(patches)
        _, statistics = standardised(spectrum.abs(), spectrum.angle())
        ids = self.quantizer(self._features(patches, rows)).ids[..., : self.spec.num_codebooks]
        side = {"electrodes": rows, "statistics": statistics}
        return rearrange(ids, "m (c t) q -> m c t q", c=x.shape[1]), side

    def _decode_windows(self, ids: Tensor, side: Mapping[str, Tensor]) -> Tensor:
        if missing := sorted({"electrodes", "statistics"} - side.keys()):
            raise ValueError(f"tokens need side {missing}, got {sorted(side)}")
        rows = side["electrodes"].long()
        if bool((rows < 1).any() or (rows >= ROWS).any()):
            raise ValueError(f"side['electrodes'] must be rows 1 to {ROWS - 1}, got {rows.unique().tolist()}")
        codes = self.quantizer.decode(rearrange(ids, "m c t q -> m (c t) q"))
        return self._wave(self._heads(codes, rows), side["statistics"], ids.shape[1])

    def _side_width(self, name: str, channels: int) -> int:
        return channels if name == "electrodes" else 4

    def _rows(self, x: Tensor) -> Tensor:
        if x.shape[1] != len(self.rows):
            raise ValueError(
                f"x must have the {len(self.rows)} channels that electrodes name, got {x.shape[1]}; "
                "use with_electrodes(names) for another montage"
            )
        return torch.tensor(self.rows, device=x.device).expand(len(x), -1)

    def _patches(self, x: Tensor) -> Tensor:
        """Samples in units of 100 microvolts, zero-padded to whole patches: ``[B, C * A, patch_size]``."""
        x = F.pad(x, (0, -x.shape[-1] % self.patch_size)) / _MICROVOLTS
        if x.shape[-1] > MAX_PATCHES * self.patch_size:
            raise ValueError(
                f"x must be at most {MAX_PATCHES * self.patch_size} samples in one piece, got {x.shape[-1]}"
            )
        return rearrange(x, "b c (a n) -> b (c a) n", n=self.patch_size)

    def _features(self, patches: Tensor, rows: Tensor) -> Tensor:
        """What is quantized, unit vectors ``[B, C * A, code_dim]``."""
        hidden = self.encoder(patches, rows, patches.shape[1] // rows.shape[1])
        return F.normalize(self.project_in(hidden), dim=-1)

    def _heads(self, codes: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Standardised amplitudes and phases ``[B, C * A, patch_size]``."""
        hidden = self.decoder(codes, rows, codes.shape[1] // rows.shape[1])
        return self.amplitude(hidden), self.phase(hidden)

    @torch.no_grad()
    def _start_heads(self, targets: Sequence[Tensor]) -> None:
        """Let heads that still have their initial zero biases predict the mean of a batch's spectra (of all ranks)."""
        for head, target in zip((self.amplitude, self.phase), targets, strict=True):
            bias = cast(nn.Linear, head[-1]).bias
            if not bias.any():
                mean = target.mean(dim=(0, 1))
                if dist.is_initialized():
                    dist.all_reduce(mean)
                    mean /= dist.get_world_size()
                bias.copy_(mean)

    def _wave(self, predicted: tuple[Tensor, Tensor], statistics: Tensor, channels: int) -> Tensor:
        """Signals ``[B, C, A * patch_size]`` in microvolts of standardised amplitudes and phases."""
        mean, std = statistics.float()[:, None, :2], statistics.float()[:, None, 2:]
        amplitude = (predicted[0].float() * std[..., :1] + mean[..., :1]).clamp(min=0)
        phase = predicted[1].float() * std[..., 1:] + mean[..., 1:]
        bins = self.patch_size // 2 + 1  # a real signal's other half mirrors these
        wave = torch.fft.irfft(torch.polar(amplitude[..., :bins], phase[..., :bins]), self.patch_size)
        return rearrange(wave, "b (c a) n -> b c (a n)", c=channels) * _MICROVOLTS


def standardised(*spectra: Tensor) -> tuple[list[Tensor], Tensor]:
    """Each of ``[B, P, F]`` with mean 0 and deviation 1 over an item, and the means, then deviations, ``[B, 2 * spectra]``."""
    means = [x.mean(dim=(1, 2), keepdim=True) for x in spectra]
    # of a flat recording the deviation is 0
    stds = [x.std(dim=(1, 2), keepdim=True).clamp(min=1e-8) for x in spectra]
    out = [(x - mean) / std for x, mean, std in zip(spectra, means, stds, strict=True)]
    return out, torch.cat([*means, *stds], dim=1)[..., 0]


def electrode_rows(names: Sequence[str]) -> tuple[int, ...]:
    """Rows of electrodes in the published table.

    Raises:
        ValueError: If there is none, or a name is not in the table.
    """
    table = {name: row for row, name in enumerate(ELECTRODES, start=1)}
    spelled = [name.strip().upper() if name.strip().upper() in table else canonical(name).upper() for name in names]
    if not names or (unknown := [name for name, text in zip(names, spelled, strict=True) if text not in table]):
        what = f"got {unknown[:5]}" if names else "got none"
        raise ValueError(f"electrodes must be names of the 10-10 system such as 'Fp1', 'CZ' or 'F3-C3', {what}")
    rows = tuple(table[text] for text in spelled)
    if max(rows) >= ROWS:
        raise ValueError(f"electrodes must be among the {ROWS - 1} that the published table holds, got {names}")
    return rows
