"""Methods x tasks: the same budget and splits for each, measured side by side."""
