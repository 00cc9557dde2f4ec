"""Anomaly detection in time series: scorers behind one interface, baselines, metrics, files with labels.

A wing inside the time-series wing: its suites have the modality ``timeseries.anomaly``
(see :mod:`tokenizers_mm.evaluation.detection`).
"""

from tokenizers_mm.evaluation.detection import AnomalyScorer
from tokenizers_mm.timeseries.anomaly.classical import IsolationForest, MatrixProfile, SubPCA, ZScore
from tokenizers_mm.timeseries.anomaly.scorers import CodecReconstruction, TimeRCDScorer
from tokenizers_mm.timeseries.anomaly.tokens import Bigram, CausalModel, TokenLikelihood, TokenModel

__all__ = [
    "AnomalyScorer",
    "Bigram",
    "CausalModel",
    "CodecReconstruction",
    "IsolationForest",
    "MatrixProfile",
    "SubPCA",
    "TimeRCDScorer",
    "TokenLikelihood",
    "TokenModel",
    "ZScore",
]
