"""``PatchDetector``: what inference asks of a trained model, whatever its family."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from torch import Tensor

from cmb_plugin.dataset import CasePredictions
from cmb_plugin.detections import Detections

from .tiling import Triple


@dataclass
class PatchDetections:
    """What a model found in one patch, in the patch's own voxel-edge coordinates, as tensors of one length N.

    Attributes:
        boxes: [N, 6] ``(z0, y0, x0, z1, y1, x1)``.
        scores: [N], 0..1.
        labels: [N], class indices from 0.
        columns: further values per detection, each [N] or [N, ...]. Those named ``score_*`` are scores too: any of them
            may be chosen to rank the detections by.
        categories: for columns of whole numbers that stand for names, the names by number. Numbers are replaced
            before anything is merged, because another fold may number its names differently.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    columns: dict[str, Tensor] = field(default_factory=dict)
    categories: Mapping[str, Sequence[str]] = field(default_factory=dict)


class PatchDetector(Protocol):
    """A model as inference sees it.

    Attributes:
        patch_size: of what it looks at.
    """

    patch_size: Triple

    @property
    def mirror_axes(self) -> tuple[int, ...]:
        """Axes of a patch, 0 z, 1 y, 2 x, along which it may be mirrored."""
        return (0, 1, 2)

    @property
    def halo(self) -> Triple | None:
        """Voxels along z, y, x beyond which the input does not change the answer; None where it all may.

        A model that gives one takes any input whose sides are multiples of ``divisor``, and a scan is predicted
        exactly: what many tiles answer is what one tile of the whole scan would. So the halo holds all that an answer
        comes from: the network's receptive field (``cmb_plugin.networks.receptive_field``); what is
        looked at around a location, such as its neighbours to find peaks, or boxes that may suppress it; and how far a
        detection's centre may lie from its location. No norm may look
        at the tile as a whole, and no box may be clipped to it.
        """
        return None

    @property
    def divisor(self) -> Triple:
        """Sides of the input are multiples of this, along z, y, x, where there is a halo."""
        return (1, 1, 1)

    def detect(self, patches: Tensor) -> tuple[list[PatchDetections], Tensor | None]:
        """Finds lesions in patches.

        Args:
            patches: [B, C, Z, Y, X] float32, normalised; Z, Y, X is ``patch_size``, or with a ``halo`` any multiple
                of ``divisor``.

        Returns:
            one ``PatchDetections`` per patch, and the foreground probability [B, Z, Y, X] of the segmentation head,
            or None where the model has none.
        """
        ...

    def remarks(self, predictions: Sequence[CasePredictions]) -> list[str]:
        """What a user should be told after a run of prediction, a sentence each."""
        return []


class PatchSegmenter(ABC):
    """A model that gives every voxel a class; whoever derives from it is averaged as probabilities of whole scans.

    Attributes:
        patch_size: of what it segments.
    """

    patch_size: Triple

    @property
    @abstractmethod
    def mirror_axes(self) -> tuple[int, ...]:
        """Axes of a patch, 0 z, 1 y, 2 x, along which it may be mirrored."""

    @property
    def halo(self) -> Triple | None:
        """Voxels along z, y, x beyond which the input does not change the answer; None where it all may.

        A model that gives one takes any input whose sides are multiples of ``divisor``, and a scan is predicted
        exactly: what many tiles answer is what one tile of the whole scan would. So the halo holds all that an answer
        comes from: the network's receptive field (``cmb_plugin.networks.receptive_field``). No norm may
        look at the tile as a whole.
        """
        return None

    @property
    def divisor(self) -> Triple:
        """Sides of the input are multiples of this, along z, y, x, where there is a halo."""
        return (1, 1, 1)

    @abstractmethod
    def segment(self, patches: Tensor) -> Tensor:
        """Class probabilities [B, K, Z, Y, X], background first, of patches [B, C, Z, Y, X] as for ``detect``."""

    @abstractmethod
    def lesions(self, probabilities: np.ndarray) -> Detections:
        """Where classes are kinds of lesions: the lesions of a whole scan [K, Z, Y, X], highest score first."""
