"""Domains: the site, scanner or protocol that each case comes from, as the data set says or as its headers show."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

from cmb_plugin.errors import UserError
from cmb_plugin.files import read_json, write_json
from cmb_plugin.paths import TaskFolder

SCHEMA = 1
UNNAMED = "unnamed"
"""What the cases without a domain are called in tables and settings."""

TOLERANCE = 1.15
"""Voxels of two scans of one domain differ by at most this factor along every axis."""

GEOMETRY_RULE = (
    f"two scans are of one domain where their voxels differ by at most {100 * (TOLERANCE - 1):.0f} % along each of the "
    "body's axes; a domain is named by its median voxel, z x y x x mm"
)


def geometry_domains(spacings: Mapping[str, Sequence[float]]) -> dict[str, str]:
    """Domains by voxel size: complete linkage of the logarithms, cut at ``TOLERANCE``.

    Complete linkage bounds the difference between any two scans of a domain, where single linkage would join a row of
    scans that each differ a little from the next.

    Args:
        spacings: case -> mm along the body's z, y, x (superior, posterior, left).

    Returns:
        case -> name, such as ``2x0.5x0.5mm``. Neither depends on the order of the cases.
    """
    names = sorted(spacings)
    if not names:
        return {}
    sizes = np.array([spacings[name] for name in names], dtype=float)
    unique, row = np.unique(sizes.round(3), axis=0, return_inverse=True)
    row = row.reshape(-1)
    label = np.ones(len(unique), dtype=int)
    if len(unique) > 1:
        from scipy.cluster.hierarchy import fcluster, linkage

        tree = linkage(np.log(unique), method="complete", metric="chebyshev")
        label = fcluster(tree, t=np.log(TOLERANCE) + 1e-9, criterion="distance")
    label = label[row]
    voxels = {number: np.median(sizes[label == number], axis=0) for number in np.unique(label).tolist()}
    called: dict[int, str] = {}
    for number, voxel in sorted(voxels.items(), key=lambda item: item[1].tolist()):
        name = "x".join(f"{side:.3g}" for side in voxel) + "mm"
        taken = sum(re.sub(r"_\d+$", "", other) == name for other in called.values())
        called[number] = f"{name}_{taken + 1}" if taken else name
    return {name: called[number] for name, number in zip(names, label.tolist(), strict=True)}


def write_derived(task: TaskFolder, domains: Mapping[str, str]) -> None:
    """Keeps domains that were derived, in ``preprocessed/domains.json``; they hold in place of dataset.json's."""
    content = {"schema": SCHEMA, "rule": GEOMETRY_RULE, "domain": dict(sorted(domains.items()))}
    write_json(task.domains, content)


def read_derived(task: TaskFolder) -> dict[str, str] | None:
    """What ``write_derived`` kept; None where nothing was derived.

    Raises:
        UserError: the file is damaged.
    """
    path = task.domains
    if not path.is_file():
        return None
    content = read_json(path)
    domains = content.get("domain") if isinstance(content, dict) else None
    if not isinstance(domains, dict) or not all(isinstance(name, str) for name in domains.values()):
        raise UserError(
            f"{path}: holds no domains", remedy="delete it, or run nndet_prep with -o planner_cfg.domains=geometry"
        )
    return domains


def slug(domain: str) -> str:
    """A domain's name as it stands in file names."""
    return re.sub(r"[^A-Za-z0-9.-]+", "_", domain).strip("_") or UNNAMED
