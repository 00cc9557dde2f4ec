"""Language models over the tokens of any codec."""
