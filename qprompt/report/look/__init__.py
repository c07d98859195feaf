"""Inspect a run: words near its context vectors, classes, errors, and the effect of quantization."""
