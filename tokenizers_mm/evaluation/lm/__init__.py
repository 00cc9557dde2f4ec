"""Language models of tokens, measured: what they say of held-out tokens, and what they draw."""
