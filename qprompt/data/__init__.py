"""Data sets independent of Dassl: items, splits, few-shot sampling, readers, checks and safe image decoding."""
