"""Text wing: lossless codecs, segmenters, hierarchical models."""
