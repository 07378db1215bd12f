"""Anatomy applied to predictions: where each lesion lies, what cannot be a lesion, and the report of a case."""
