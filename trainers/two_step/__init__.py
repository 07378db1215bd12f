"""``TwoStepKD``: the whole method beside its trainer."""
