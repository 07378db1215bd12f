"""How right a part is against a truth, without training."""
