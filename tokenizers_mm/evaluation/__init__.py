"""Evaluation: how well codecs reconstruct, what their tokens cost, and how fast they are. Knows no modality."""
