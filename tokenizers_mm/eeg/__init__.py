"""EEG wing: codecs, files, data, losses, metrics."""

from tokenizers_mm.eeg.tfm import TFMTokenizer
from tokenizers_mm.eeg.waveform import EEGWaveformCodec

__all__ = ["EEGWaveformCodec", "TFMTokenizer"]
