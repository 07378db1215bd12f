"""Images and masks brought to the grid of the reference: by their headers, or registered."""

from __future__ import annotations

from typing import Any

import numpy as np

from cmb_plugin.errors import UserError
from cmb_plugin.images import Grid, registration_method, resample, to_itk, voxels_of_instances
from cmb_plugin.preparation import modality_kind, to_radians

from .instances import Drawn
from .reading import SourceImage

SAME_MM = 0.01
"""Corners that differ by less differ by rounding: NIfTI stores its geometry in single precision."""

LEAST_COVER = 0.5
"""A scan that covers less of the reference is another scan."""


def bring(
    image: SourceImage, reference: SourceImage, modality: str, tolerance: float = 0.5, register: bool = False
) -> tuple[np.ndarray, list[str]]:
    """The voxels of ``image`` on the grid of ``reference``, and what was done to get there.

    Equal shapes whose corners differ by less than ``tolerance`` voxels: the voxels are kept and the reference's header
    is taken. Otherwise linear interpolation by header; phase is interpolated as a complex number.

    Args:
        image: what is brought.
        reference: whose grid is meant.
        modality: name of the image, to know phase.
        tolerance: in voxels of the reference.
        register: find the rigid motion between both by mutual information first.

    Raises:
        UserError: both hardly overlap.
    """
    own, grid = image.grid, reference.grid
    name, onto = image.path.name, reference.path.name
    if own.matches(grid, SAME_MM) and not register:
        return image.array, []
    if own.same_as(grid, tolerance) and not register:
        distance = own.corner_distance(grid)
        return image.array, [f"{name} lies up to {distance:.2f} mm off {onto} by its header; {onto}'s place was taken"]
    notes, transform = [], None
    if register:
        transform, moved = rigid_registration(image, reference)
        notes.append(f"{name} was registered to {onto}: its corners moved by up to {moved:.2f} mm")
    covered = float(resample(np.ones(own.shape, np.float32), own, grid, transform).mean())
    if covered < LEAST_COVER:
        raise UserError(
            f"{image.path}: covers {100 * covered:.0f} % of {onto}",
            remedy="are both of one session? correct the header, or register them with --register",
        )
    if modality_kind(modality) == "phase":
        radians = to_radians(np.nan_to_num(image.array.astype(np.float32)))
        parts = [resample(part.astype(np.float32), own, grid, transform) for part in (np.sin(radians), np.cos(radians))]
        array = np.arctan2(*parts).astype(np.float32)
    else:
        array = resample(np.nan_to_num(image.array.astype(np.float32)), own, grid, transform)
    how = f"up to {own.corner_distance(grid):.1f} mm off" if own.shape == grid.shape else f"of {_sides(own)}"
    note = f"{name} ({how}) was resampled to the grid of {onto} ({_sides(grid)})"
    return array, [*notes, note + (f", of which it covers {100 * covered:.0f} %" if covered < 0.995 else "")]


def bring_instances(drawn: Drawn, own: Grid, reference: SourceImage, name: str, tolerance: float = 0.5) -> Drawn:
    """Instances that were drawn on another grid, on the grid of ``reference``; none is lost.

    Raises:
        UserError: a lesion lies outside the reference.
    """
    grid = reference.grid
    if own.same_as(grid, tolerance):
        if (distance := own.corner_distance(grid)) > SAME_MM:
            drawn.warnings.append(
                f"{name} lies up to {distance:.2f} mm off {reference.path.name}, whose place was taken"
            )
        return drawn
    mask = np.zeros(grid.shape, np.int32)
    swapped = sorted(own.shape) == sorted(grid.shape) and own.shape != grid.shape
    for number in voxels_of_instances(drawn.mask):
        share = resample((drawn.mask == number).astype(np.float32), own, grid)
        inside = (share >= 0.5) & (mask == 0)
        if not inside.any():
            edges = np.argwhere(drawn.mask == number).mean(axis=0) + 0.5
            place = np.floor(grid.from_world(own.to_world(edges[None]))[0]).astype(int)
            if (place < 0).any() or (place >= np.asarray(grid.shape)).any():
                raise UserError(
                    f"{name}: lesion {number} lies outside {reference.path.name} ({_sides(own)} on {_sides(grid)})",
                    remedy="its axes look swapped: export the mask again from the image that it was drawn on"
                    if swapped
                    else "draw the mask on this image, or correct its header",
                )
            inside[tuple(place)] = True
        mask[inside] = number
    lost = set(drawn.classes) - set(voxels_of_instances(mask))
    if lost:
        raise UserError(
            f"{name}: lesion {min(lost)} vanishes on the grid of {reference.path.name}",
            remedy="draw the mask on this image, or make a finer image the reference",
        )
    drawn.mask = mask
    drawn.warnings.append(f"{name} ({_sides(own)}) was resampled to the grid of {reference.path.name} ({_sides(grid)})")
    return drawn


def rigid_registration(image: SourceImage, reference: SourceImage) -> tuple[Any, float]:
    """The rigid motion that maximises the mutual information of two scans.

    Returns:
        a SimpleITK transform from the reference's world to the image's, and how far it moves a corner of the reference
        at most, in mm.
    """
    import SimpleITK as sitk

    fixed, moving = (
        sitk.Cast(to_itk(np.nan_to_num(s.array.astype(np.float32)), s.grid), sitk.sitkFloat32)
        for s in (reference, image)
    )
    method = registration_method()
    method.SetMetricAsMattesMutualInformation(32)
    method.SetMetricSamplingStrategy(method.RANDOM)
    method.SetMetricSamplingPercentage(0.2, 1)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(1.0, 1e-3, 150)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel([4, 2, 1])
    method.SetSmoothingSigmasPerLevel([4, 2, 0])
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOn()
    start = sitk.CenteredTransformInitializer(
        fixed, fixed, sitk.Euler3DTransform(), sitk.CenteredTransformInitializerFilter.GEOMETRY
    )
    method.SetInitialTransform(start, inPlace=False)
    try:
        transform = method.Execute(fixed, moving)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise UserError(
            f"{image.path}: cannot be registered to {reference.path.name} ({reason})", remedy="leave --register out"
        ) from None
    corners = np.array(np.meshgrid(*[(0.0, 1.0)] * 3)).reshape(3, -1).T * np.asarray(reference.grid.shape)
    world = reference.grid.to_world(corners)
    moved = np.array([transform.TransformPoint(tuple(p)) for p in world.tolist()])
    return transform, float(np.linalg.norm(moved - world, axis=1).max())


def _sides(grid: Grid) -> str:
    voxels = " x ".join(str(n) for n in grid.shape[::-1])
    return f"{voxels} voxels of {' x '.join(f'{s:.3g}' for s in grid.spacing[::-1])} mm"
