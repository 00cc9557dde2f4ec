"""Anomaly scorers of networks: TimeRCD's labels, and the reconstruction error of any codec of series."""

from __future__ import annotations

from torch import Tensor, nn

from tokenizers_mm.codec import Codec
from tokenizers_mm.timeseries.anomaly.prepare import prepared
from tokenizers_mm.timeseries.timercd import TimeRCD
from tokenizers_mm.timeseries.windows import standardise


class TimeRCDScorer:
    """TimeRCD's logit of "anomalous" against "normal": probabilities of 1 would all look alike.

    Args:
        model: The network.
        window: Steps that it sees at once; by default its own.
        overlap: Share of a window that the next one repeats.
    """

    def __init__(self, model: TimeRCD, window: int | None = None, overlap: float = 0.5) -> None:
        self.module: nn.Module | None = model
        self.model, self.window, self.overlap = model, window or model.window, overlap
        self.definition = (
            f"TimeRCD, zero-shot: logits of windows of {self.window} steps that overlap by {overlap:.0%}, averaged"
        )

    def score(self, signal: Tensor) -> Tensor:
        """Logits ``[N]`` of ``[C, N]``; a network for one variate scores each variate, the mean counts."""
        x = prepared(signal)
        rows = [x] if self.model.multivariate else list(x[:, None])
        logits = [
            self.model.predict(row, window=self.window, overlap=self.overlap, return_logits=True)[1] for row in rows
        ]
        return sum(logits[1:], logits[0]) / len(logits)


class CodecReconstruction:
    """Squared error of a codec's reconstruction of the standardised series, mean over variates.

    Args:
        codec: Of series; it should have been trained on what is normal.
    """

    def __init__(self, codec: Codec) -> None:
        if codec.signal_ndim != 3 or codec.spec.sample_rate is not None:
            raise ValueError(f"codec must be one of series [B, C, N] without a rate, got one of {codec.spec.modality}")
        self.module: nn.Module | None = codec
        self.codec = codec
        self.definition = f"Squared error of {type(codec).__name__}'s reconstruction of the standardised series"

    def score(self, signal: Tensor) -> Tensor:
        """Squared errors ``[N]`` of ``[C, N]``."""
        x = standardise(prepared(signal))
        parts = x[:, None] if self.codec.spec.channels == 1 else x[None]
        estimate = self.codec.reconstruct(parts).cpu().reshape(x.shape)
        return (estimate - x).square().mean(dim=0)
