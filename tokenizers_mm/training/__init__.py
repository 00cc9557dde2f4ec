"""Training of codecs of any modality with Lightning; recipes name the codec, the losses, the discriminators and the data."""
