"""Trained networks compared: hours, with records that let a stopped study go on."""
