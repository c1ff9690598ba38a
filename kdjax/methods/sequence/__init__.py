"""Methods on the next-token scores of language models."""
