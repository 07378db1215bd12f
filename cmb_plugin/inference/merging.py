"""What tiles, mirrorings and folds say about one scan becomes one list of detections."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from scipy.spatial import cKDTree

from cmb_plugin.boxes import batched_nms, clip_boxes, nonempty, weighted_box_clustering
from cmb_plugin.detections import SCORE_PREFIX, Detections, fold_column

from .config import InferenceConfig
from .detector import PatchDetections
from .tiling import EDGE, CoreTiling, Tiling, Triple

WEIGHT = "_weight"  # column that carries the trust in a detection until everything is merged
VIEW = "_view"  # and the number of the view that it comes from
MIN_SIDE = 0.01  # voxels; what is thinner after clipping lies outside the scan


def place_in_scan(found: PatchDetections, origin: Triple, tiling: Tiling | CoreTiling, min_score: float) -> Detections:
    """Detections of one tile in voxels of the scan, clipped to it.

    Those below ``min_score``, outside the scan, or left to another tile, are left out: because a face of this one may
    have cut them, or because their centre lies in another core. The trust in each, for overlapping tiles a Gaussian of
    its centre's place in the tile, is kept in the column ``WEIGHT``.

    Args:
        found: boxes in the tile's own voxels.
        origin: of the tile, one of ``tiling.origins``.
        tiling: all tiles of the scan.
        min_score: lowest score that is kept.
    """
    keep = found.scores >= min_score
    local = found.boxes[keep].float().cpu()
    placed = local + torch.tensor(tiling.first_voxel(origin) * 2, dtype=torch.float32)
    boxes = clip_boxes(placed, tiling.shape)
    columns = {name: _to_numpy(values[keep]) for name, values in found.columns.items()}
    columns |= {name: np.array(names)[columns[name]] for name, names in found.categories.items()}
    columns[WEIGHT] = tiling.trust(((local[:, :3] + local[:, 3:]) / 2).numpy())
    detections = Detections(boxes.numpy(), _to_numpy(found.scores[keep]), found.labels[keep].cpu().numpy(), columns)
    return detections[nonempty(boxes, MIN_SIDE).numpy() & tiling.answers_for(placed.numpy(), origin)]


def _to_numpy(values: torch.Tensor) -> np.ndarray:
    array: np.ndarray = (values.float() if values.is_floating_point() else values).cpu().numpy()
    return array


def merge_tiles(parts: Sequence[Detections], config: InferenceConfig) -> Detections:
    """All tiles of one view (one model, one mirroring) -> its detections, highest score first.

    Non-maximum suppression within each class, in the order of score times trust: of two tiles that saw one lesion the
    one counts that saw it nearer to its middle. The score itself stays what the network said.
    """
    found = Detections.concatenate(parts)
    if not len(found):
        return found
    ranking = torch.from_numpy(found.scores * found.columns[WEIGHT])
    kept = batched_nms(torch.from_numpy(found.boxes), ranking, torch.from_numpy(found.labels), config.nms_iou)
    return found[kept.numpy()].by_score()


def merge_cores(parts: Sequence[Detections]) -> Detections:
    """As ``merge_tiles``, for tiles that answer for their cores alone: nothing is left to suppress.

    A detection whose centre lies on the face between two cores was kept by both tiles, lest rounding lose it; of two
    of one class and of one place to within ``EDGE`` voxels that come from different tiles the first counts.
    """
    detections = Detections.concatenate(parts)
    tile = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    if len(parts) < 2 or not len(detections):
        return detections.by_score()
    pairs = cKDTree(detections.centres).query_pairs(EDGE, p=np.inf, output_type="ndarray")
    first, second = np.sort(pairs, axis=1).T
    same = (tile[first] != tile[second]) & (detections.labels[first] == detections.labels[second])
    counts = np.ones(len(detections), dtype=bool)
    counts[second[same]] = False
    return detections[counts].by_score()


def merge_views(views: Sequence[Detections], config: InferenceConfig, folds: int = 1) -> Detections:
    """Detections of all views of one scan -> one list, highest score first.

    Weighted box clustering; a lesion that only some of the views saw scores lower. Further columns are averaged over
    the views, weighted by score and trust; of categories the most trusted view's is kept. What each fold of an ensemble
    gave a detection is kept in the columns ``fold_column`` of each score, because the folds' thresholds are for that.

    Args:
        views: of the first fold all mirrorings, then those of the next.
        config: how they are merged.
        folds: how many there are.
    """
    found = Detections.concatenate([_numbered(view, number) for number, view in enumerate(views)])
    if not len(found):
        return found
    weights, view = found.columns.pop(WEIGHT), found.columns.pop(VIEW)
    if len(views) > 1:
        found = _clustered(found, weights, view, len(views), folds, config)
    return found[found.scores >= config.min_score].by_score()


def strongest(detections: Detections, most: int, ranking: str | None = None) -> Detections:
    """The ``most`` detections that rank highest, in the order they have.

    Args:
        detections: of a scan, or of one view of it.
        most: how many are kept.
        ranking: the column of scores that decides; None for the score itself.
    """
    if len(detections) <= most:
        return detections
    scores = detections.scores if ranking is None else detections.columns[ranking]
    return detections[np.sort(np.argsort(-scores, kind="stable")[:most])]


def _numbered(view: Detections, number: int) -> Detections:
    return dataclasses.replace(view, columns={**view.columns, VIEW: np.full(len(view), number)})


def _scores_of_folds(
    found: Detections, view: np.ndarray, index: np.ndarray, n_views: int, folds: int
) -> dict[str, np.ndarray]:
    """For each score the column [clusters, folds]: the mean over a fold's mirrorings of the highest score that the
    mirroring gave, 0 where it saw nothing. Of one mirroring it is what the fold alone would report."""
    columns = {}
    for ranking in (None, *found.rankings):
        highest = np.zeros((index.max() + 1, n_views), dtype=np.float32)
        np.maximum.at(highest, (index, view), found.scores if ranking is None else found.columns[ranking])
        columns[fold_column(ranking)] = highest.reshape(len(highest), folds, -1).mean(axis=2)
    return columns


def _clustered(
    found: Detections, weights: np.ndarray, view: np.ndarray, n_views: int, folds: int, config: InferenceConfig
) -> Detections:
    clusters = weighted_box_clustering(
        torch.from_numpy(found.boxes),
        torch.from_numpy(found.scores),
        torch.from_numpy(found.labels),
        torch.from_numpy(weights),
        config.wbc_iou,
        n_expected=n_views,
    )
    index, importance = clusters.index.numpy(), weights * found.scores + 1e-12
    columns = {name: _column_of_clusters(values, index, importance) for name, values in found.columns.items()}
    # What lowers the score of a lesion that only some views saw lowers the other scores too.
    mean = _column_of_clusters(found.scores, index, importance)
    for name in (name for name in columns if name.startswith(SCORE_PREFIX)):
        columns[name] = columns[name] * (clusters.scores.numpy() / np.maximum(mean, 1e-12))
    if folds > 1:
        columns |= _scores_of_folds(found, view, index, n_views, folds)
    merged = Detections(clusters.boxes.numpy(), clusters.scores.numpy(), clusters.labels.numpy(), columns)
    # Mean boxes can overlap although the boxes that their clusters began with did not.
    return merged[batched_nms(clusters.boxes, clusters.scores, clusters.labels, config.nms_iou).numpy()]


def _column_of_clusters(values: np.ndarray, index: np.ndarray, importance: np.ndarray) -> np.ndarray:
    """Weighted mean of each cluster's members; of whole numbers (a category, say) the most important member's."""
    if not np.issubdtype(values.dtype, np.floating):
        order = np.argsort(importance, kind="stable")
        chosen = np.zeros(index.max() + 1, dtype=int)
        chosen[index[order]] = order  # the last one written is the most important
        taken: np.ndarray = values[chosen]
        return taken
    sums = np.zeros((index.max() + 1, *values.shape[1:]))
    np.add.at(sums, index, values * importance.reshape(-1, *[1] * (values.ndim - 1)))
    total = np.bincount(index, importance)
    mean: np.ndarray = (sums / total.reshape(-1, *[1] * (values.ndim - 1))).astype(np.float32)
    return mean
