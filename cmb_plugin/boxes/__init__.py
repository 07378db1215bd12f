"""Boxes as tensors: overlap, anchors, assignment, coding, suppression and clustering. Runs on any device torch has.

Everywhere a box is half-open and in voxel-edge coordinates ``(z0, y0, x0, z1, y1, x1)``: voxel i covers [i, i + 1), so
a lesion of one voxel has sides of 1. No boxes is [0, 6].
"""

import lazy_loader

# The names stand in __init__.pyi; a module is imported when the first of its names is asked for.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
