"""Active learning: which unlabelled scans are worth a reader's time, and what a strategy would have gained."""
