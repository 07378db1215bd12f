"""``CMBRetinaUNet``: the whole method beside its trainer."""
