"""What people have becomes scans to predict: files, BIDS data sets, DICOM; what is taken, what is not, and why."""

import lazy_loader

# The names stand in __init__.pyi; a module is imported when the first of its names is asked for.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
