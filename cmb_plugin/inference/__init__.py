"""From models and a prepared scan to detections in the scan's own space. Knows neither Lightning nor SimpleITK."""

import lazy_loader

# The names stand in __init__.pyi; a module is imported when the first of its names is asked for.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
