"""Layers with no idea of modality."""
