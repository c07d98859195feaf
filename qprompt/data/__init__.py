"""Data sets without Dassl: items and splits, few-shot draws, readers of known layouts, checks, safe decoding."""
