"""Text encoders: taps `tokens` [B, L, D], `embed` [B, D], and optionally `logits`."""
