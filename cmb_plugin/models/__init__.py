"""Trained models on disk, and what they predicted: ensembles, operating points, scored cases, files."""
