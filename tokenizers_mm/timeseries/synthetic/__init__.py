"""Generated time series with anomalies whose every step is known: what TimeRCD is trained on."""

from tokenizers_mm.timeseries.synthetic.corpus import CorpusSettings, write_corpus
from tokenizers_mm.timeseries.synthetic.sample import Sample, generate

__all__ = ["CorpusSettings", "Sample", "generate", "write_corpus"]
