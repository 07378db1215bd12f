"""What SimpleITK computes depends on the images, not on the machine."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import SimpleITK as sitk
from scipy.ndimage import gaussian_filter

from cmb_plugin.images import Grid, registration_method, to_itk


@pytest.fixture
def _threads() -> Iterator[None]:
    before = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    yield
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(before)


@pytest.mark.usefixtures("_threads")
def test_a_registration_ends_at_the_same_bits_whatever_the_number_of_cores() -> None:
    noise = gaussian_filter(np.random.default_rng(0).standard_normal((24, 24, 24)), 2).astype(np.float32)
    grid = Grid(noise.shape, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))
    fixed, moving = to_itk(noise, grid), to_itk(np.roll(noise, 2, axis=2), grid)
    ends = set()
    for threads in (1, 2, 4, 4, 4, 8, 8):
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
        transform = sitk.TranslationTransform(3)
        method = registration_method()
        method.SetMetricAsMattesMutualInformation(16)
        method.SetInterpolator(sitk.sitkLinear)
        method.SetOptimizerAsRegularStepGradientDescent(0.5, 1e-3, 30)
        method.SetInitialTransform(transform, True)
        method.Execute(fixed, moving)
        ends.add(transform.GetParameters())
    assert len(ends) == 1
    assert np.linalg.norm(np.array(ends.pop()) - (2, 0, 0)) < 0.5
