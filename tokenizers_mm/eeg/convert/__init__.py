"""Published EEG checkpoints to folders that ``load`` reads: one entry in ``CONVERTERS`` per family."""

from tokenizers_mm.eeg.convert.labram import convert_labram
from tokenizers_mm.eeg.convert.tfm import convert_tfm, convert_tfm_encoder
from tokenizers_mm.published import Converter

CONVERTERS: dict[str, Converter] = {
    "labram": convert_labram,
    "tfm": convert_tfm,
    "tfm-encoder": convert_tfm_encoder,
}
