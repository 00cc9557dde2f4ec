"""Public audio codecs: thin wrappers over classes of ``transformers``, one module per family."""
