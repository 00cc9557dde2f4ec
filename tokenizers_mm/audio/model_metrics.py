"""Metrics of audio that need a model the user brings: MOS predictors, word errors, speaker similarity, Frechet audio distance.

Every model hears the mono mix at 16 kHz. Sources: Saeki et al., "UTMOS" (2022); Reddy et al., "DNSMOS P.835" (2022);
Kilgour et al., "Frechet Audio Distance" (2019). Predicted MOS rewards decoders that invent: read it beside an intrusive metric.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tokenizers_mm.evaluation.frechet import frechet_distance
from tokenizers_mm.evaluation.metric import Metric, Unmeasurable

if TYPE_CHECKING:
    from tokenizers_mm.audio.metrics import Pair

RATE = 16000
DNSMOS_SECONDS = 9.01  # what the published network takes

MODELS: dict[str, str] = {
    "utmos": "takes (signal [N], 16000), returns the MOS from 1 to 5",
    "dnsmos": f"takes (signal [{int(DNSMOS_SECONDS * RATE)}], 16000), returns [SIG, BAK, OVRL] as sig_bak_ovr.onnx does",
    "transcribe": "takes (signal [N], 16000), returns the text",
    "embed": "takes (signal [N], 16000), returns the speaker embedding [D]",
    "fad": "takes (signal [N], 16000), returns embeddings [frames, D]",
}

Model = Callable[..., Any]
# Published fits from the network's outputs to the P.835 scale: coefficients of x^2, x and 1.
_DNSMOS_FIT = {
    "sig": (-0.08397278, 1.22083953, 0.0052439),
    "bak": (-0.13166888, 1.60915514, -0.39604546),
    "ovrl": (-0.06766283, 1.11546468, 0.04602535),
}


def _utmos(pair: Pair, model: Model) -> float:
    return float(model(pair.mono(RATE)[1], RATE))


def _dnsmos(part: str) -> Callable[[Pair, Model], float]:
    """Mean over windows of 9.01 s with a hop of 1 s, shorter clips repeated, as in the published script."""

    def score(pair: Pair, model: Model) -> float:
        size = int(DNSMOS_SECONDS * RATE)
        signal = pair.mono(RATE)[1]
        signal = signal.repeat(-(-size // len(signal))) if len(signal) < size else signal
        windows = signal.unfold(0, size, RATE)
        raw = torch.stack([torch.as_tensor(model(window, RATE)).reshape(3) for window in windows]).double()
        a, b, c = _DNSMOS_FIT[part]
        x = raw[:, list(_DNSMOS_FIT).index(part)]
        return float((a * x.square() + b * x + c).mean())

    return score


def word_errors(reference: str, hypothesis: str) -> float:
    """Word error rate: edits to turn the reference's words into the hypothesis's, per word of the reference.

    Case, punctuation and Unicode form do not count.

    Raises:
        Unmeasurable: If the reference has no word.
    """
    wanted, got = _words(reference), _words(hypothesis)
    if not wanted:
        raise Unmeasurable("the reference text has no words")
    return _edits(wanted, got) / len(wanted)


def _words(text: str) -> list[str]:
    plain = unicodedata.normalize("NFKC", text).casefold().replace("’", "'")
    return "".join(c if c.isalnum() or c == "'" or unicodedata.category(c)[0] == "M" else " " for c in plain).split()


def _edits(wanted: Sequence[str], got: Sequence[str]) -> int:
    """Levenshtein distance."""
    row = list(range(len(got) + 1))
    for i, word in enumerate(wanted, start=1):
        diagonal, row[0] = row[0], i
        for j, other in enumerate(got, start=1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (word != other))
    return row[-1]


def _wer(pair: Pair, model: Model) -> float:
    if not pair.about.get("text"):
        raise Unmeasurable("the manifest has no column 'text' with the clip's transcript")
    return word_errors(pair.about["text"], str(model(pair.mono(RATE)[1], RATE)))


def _dwer(pair: Pair, model: Model) -> float:
    reference, estimate = (str(model(x, RATE)) for x in pair.mono(RATE))
    return word_errors(reference, estimate)


def _similarity(pair: Pair, model: Model) -> float:
    embeddings = [torch.as_tensor(model(x, RATE)).double().flatten() for x in pair.mono(RATE)]
    if any(float(e.norm()) == 0 for e in embeddings):
        raise Unmeasurable("an embedding is zero")
    return float(torch.cosine_similarity(embeddings[0], embeddings[1], dim=0))


def _embeddings(pair: Pair, model: Model) -> tuple[Tensor, Tensor]:
    reference, estimate = (torch.as_tensor(model(x, RATE)) for x in pair.mono(RATE))
    return reference, estimate


_ANY_TEXT = "words without case and punctuation"

MODEL_METRICS: dict[str, Metric] = {
    "utmos": Metric("UTMOS", "MOS", "higher", 2, _utmos, "Predicted by the given model.", model="utmos"),
    **{
        f"dnsmos_{part}": Metric(
            f"DNSMOS {part.upper()}", "MOS", "higher", 2, _dnsmos(part),
            "P.835 by the given network, windows of 9.01 s, hop 1 s.", model="dnsmos",
        )
        for part in _DNSMOS_FIT
    },
    "wer": Metric(
        "WER", "", "lower", 3, _wer, f"Recognised reconstruction against the transcript; {_ANY_TEXT}.", model="transcribe"
    ),
    "dwer": Metric(
        "dWER", "", "lower", 3, _dwer, f"Recognised reconstruction against recognised original; {_ANY_TEXT}.",
        model="transcribe",
    ),
    "speaker_similarity": Metric(
        "speaker sim.", "", "higher", 3, _similarity, "Cosine of the given model's embeddings.", model="embed"
    ),
    "fad": Metric(
        "FAD", "", "lower", 3, _embeddings, "Frechet distance of all reconstructions' embeddings to all originals'.",
        model="fad", combine=frechet_distance,
    ),
}  # fmt: skip
