"""EEG wing: codecs, files, data, losses, metrics."""
