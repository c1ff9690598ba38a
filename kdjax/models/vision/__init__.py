"""Image encoders: taps `stem`, `stage1` ..., `embed` [B, D], and optionally `logits`."""
