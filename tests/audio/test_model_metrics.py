"""Metrics that need a model: null with the reason without one, and the right arithmetic around one."""

import pytest
import torch
from torch import Tensor

from tokenizers_mm.audio.metrics import METRICS, MODELS, compute
from tokenizers_mm.audio.model_metrics import MODEL_METRICS, word_errors
from tokenizers_mm.evaluation.metric import OF_SET, Unmeasurable
from tokenizers_mm.tokens import TokenSpec

SPEC = TokenSpec("audio", (64,), hop=(320,), sample_rate=24000)
X = 0.1 * torch.randn(1, 24000, generator=torch.Generator().manual_seed(0))


def test_without_a_model_there_is_no_number():
    scores = compute(X, X, SPEC, MODEL_METRICS)
    assert set(scores.values()) == {None}
    assert {key: scores.reasons[key] for key in scores} == {
        key: f"no model {metric.model!r} given" for key, metric in MODEL_METRICS.items()
    }
    assert {metric.model for metric in METRICS.values() if metric.model} == set(MODELS)


def test_models_hear_the_reconstruction_in_mono_at_16_khz():
    heard: list[tuple] = []

    def model(signal: Tensor, rate: int) -> float:
        heard.append((tuple(signal.shape), rate, float(signal.std())))
        return 3.5

    stereo = TokenSpec("audio", (64,), hop=(320,), sample_rate=24000, channels=2)
    scores = compute(X.repeat(2, 1), 0.5 * X.repeat(2, 1), stereo, ["utmos"], models={"utmos": model})
    assert scores == {"utmos": 3.5}
    assert heard[0][:2] == ((16000,), 16000)
    assert heard[0][2] == pytest.approx(0.05, rel=0.3)


def test_a_model_that_breaks_costs_only_its_metrics():
    def broken(signal: Tensor, rate: int) -> float:
        raise RuntimeError("no weights")

    scores = compute(X, X, SPEC, ["utmos", "l1"], models={"utmos": broken})
    assert scores == {"utmos": None, "l1": 0}
    assert scores.reasons == {"utmos": "RuntimeError: no weights"}


@pytest.mark.parametrize(
    ("reference", "hypothesis", "rate"),
    [
        ("the cat sat", "The cat, sat.", 0),
        ("the cat sat", "the bat sat", 1 / 3),
        ("the cat sat", "cat sat", 1 / 3),
        ("the cat sat", "the cat sat down there", 2 / 3),
        ("the cat sat", "", 1),
        ("don't", "don’t", 0),
        ("ein Straßenbahn", "EIN STRASSENBAHN", 0),
        ("हिन्दी भाषा", "हिन्दी भाषा।", 0),
    ],
)
def test_word_errors(reference: str, hypothesis: str, rate: float):
    assert word_errors(reference, hypothesis) == pytest.approx(rate)


def test_a_text_without_words_is_not_scored():
    with pytest.raises(Unmeasurable, match="no words"):
        word_errors(" ... ", "a")


def test_wer_needs_a_transcript_and_dwer_does_not():
    texts = {0: "one two three", 1: "one two tree"}
    models = {"transcribe": lambda signal, rate: texts[int(signal.std() < 0.05)]}
    plain = compute(X, X / 10, SPEC, ["wer", "dwer"], models=models)
    assert plain == {"wer": None, "dwer": pytest.approx(1 / 3)}
    assert "column 'text'" in plain.reasons["wer"]
    told = compute(X, X / 10, SPEC, ["wer"], models=models, about={"text": "one too three"})
    assert told["wer"] == pytest.approx(2 / 3)


def test_speaker_similarity_is_a_cosine():
    models = {"embed": lambda signal, rate: torch.tensor([1.0, float(signal.std() < 0.05)])}
    assert compute(X, X, SPEC, ["speaker_similarity"], models=models)["speaker_similarity"] == pytest.approx(1)
    assert compute(X, X / 10, SPEC, ["speaker_similarity"], models=models)["speaker_similarity"] == pytest.approx(
        0.5**0.5
    )


def test_dnsmos_maps_windows_to_the_scale():
    sizes = []

    def network(window: Tensor, rate: int) -> Tensor:
        sizes.append(len(window))
        return torch.tensor([3.0, 4.0, 2.0])

    scores = compute(X, X, SPEC, ["dnsmos_sig", "dnsmos_bak", "dnsmos_ovrl"], models={"dnsmos": network})
    assert set(sizes) == {144160}
    assert scores["dnsmos_sig"] == pytest.approx(-0.08397278 * 9 + 1.22083953 * 3 + 0.0052439)
    assert scores["dnsmos_bak"] == pytest.approx(-0.13166888 * 16 + 1.60915514 * 4 - 0.39604546)
    assert scores["dnsmos_ovrl"] == pytest.approx(-0.06766283 * 4 + 1.11546468 * 2 + 0.04602535)
    sizes.clear()
    compute(X.repeat(1, 11), X.repeat(1, 11), SPEC, ["dnsmos_sig"], models={"dnsmos": network})
    assert len(sizes) == 2  # 11 s: windows at 0 and 1 s


def test_fad_is_a_matter_of_the_whole_set():
    models = {"fad": lambda signal, rate: signal.reshape(-1, 4)}
    scores = compute(X, X / 2, SPEC, ["fad"], models=models)
    assert scores == {"fad": None}
    assert scores.reasons == {"fad": OF_SET}
    reference, estimate = scores.features["fad"]
    assert reference.shape == estimate.shape == (4000, 4)
    assert METRICS["fad"].combine(reference, reference) == pytest.approx(0, abs=1e-9)
    assert METRICS["fad"].combine(reference, estimate) > 0
