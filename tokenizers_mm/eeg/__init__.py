"""EEG wing: codecs, files, data, losses, metrics."""

from tokenizers_mm.eeg.labram import LaBraMTokenizer
from tokenizers_mm.eeg.tfm import TFMTokenizer
from tokenizers_mm.eeg.tfm_encoder import TFMEncoder
from tokenizers_mm.eeg.waveform import EEGWaveformCodec

__all__ = ["EEGWaveformCodec", "LaBraMTokenizer", "TFMEncoder", "TFMTokenizer"]
