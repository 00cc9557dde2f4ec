"""Public image tokenizers: thin wrappers over classes of ``transformers``, one module per family."""
