"""Detectors that anomaly suites run beside the networks: one entry in ``BASELINES`` each."""

from __future__ import annotations

from tokenizers_mm.evaluation.detection import DetectionBaseline
from tokenizers_mm.timeseries.anomaly.classical import IsolationForest, MatrixProfile, SubPCA, ZScore

BASELINES: dict[str, DetectionBaseline] = {
    "z-score": DetectionBaseline("z-score", ZScore),
    "sub-pca": DetectionBaseline("Sub-PCA", SubPCA),
    "isolation-forest": DetectionBaseline("isolation forest", IsolationForest, ("sklearn",)),
    "matrix-profile": DetectionBaseline("matrix profile", MatrixProfile, ("stumpy",)),
}
