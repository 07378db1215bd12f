"""One case from scan to array: orientation, crop, intensities, lesions."""

import numpy as np
import pytest
import SimpleITK as sitk

from cmb_plugin.errors import UserError
from cmb_plugin.images import Grid, boxes_of_instances
from cmb_plugin.preparation import (
    Normalisation,
    Preprocessing,
    brain_extent,
    foreground_extent,
    normalise,
    preprocess_case,
    replace_nonfinite,
    target_shape,
)


def scan(shape: tuple[int, int, int] = (12, 20, 24), seed: int = 0, channels: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).gamma(4.0, 25.0, size=(channels, *shape)).astype(np.float32)


def test_whole_preprocessing_equals_nnunets() -> None:
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    images = scan((14, 22, 26), channels=2)
    images[:, :3] = images[:, :, :5] = images[:, :, :, -4:] = 0
    resampling = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
    configuration = {
        "preprocessor_name": "DefaultPreprocessor",
        "spacing": [2.0, 1.0, 1.0],
        "normalization_schemes": ["ZScoreNormalization"] * 2,
        "use_mask_for_norm": [True, True],
        "architecture": {},
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": resampling,
        "resampling_fn_seg_kwargs": {**resampling, "is_seg": True, "order": 1},
    }
    plans = {
        "dataset_name": "x",
        "plans_name": "x",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "foreground_intensity_properties_per_channel": {"0": {}, "1": {}},
        "configurations": {"3d": configuration},
    }
    manager = PlansManager(plans)
    theirs, _, _ = DefaultPreprocessor(verbose=False).run_case_npy(
        images, None, {"spacing": [1.5, 0.8, 0.8]}, manager, manager.get_configuration("3d"), {}
    )
    recipe = Preprocessing((2.0, 1.0, 1.0), normalisation=(Normalisation("zscore", True),) * 2)
    ours = preprocess_case(images, Grid((14, 22, 26), (1.5, 0.8, 0.8)), None, recipe)
    np.testing.assert_allclose(ours.data, theirs, atol=2e-5)
    assert ours.instances is None


def test_a_scan_stored_in_another_orientation_gives_the_same_array() -> None:
    image = sitk.GetImageFromArray(scan()[0])
    image.SetSpacing((0.8, 0.9, 2.0))
    label = np.zeros((12, 20, 24), dtype=np.int16)
    label[2:4, 5:9, 20:23] = 1
    mask = sitk.GetImageFromArray(label)
    mask.CopyInformation(image)
    recipe = Preprocessing((1.5, 1.0, 1.0))
    results = []
    for orientation in ("LPS", "RAI", "SAL"):
        turned, turned_mask = sitk.DICOMOrient(image, orientation), sitk.DICOMOrient(mask, orientation)
        grid = Grid(turned.GetSize()[::-1], turned.GetSpacing()[::-1], turned.GetOrigin(), turned.GetDirection())
        array, numbers = sitk.GetArrayFromImage(turned), sitk.GetArrayFromImage(turned_mask)
        case = preprocess_case(array[None], grid, numbers, recipe)
        results.append((case.data, case.instances, case.mapping.boxes_to_network(list(case.truth.values()))))
    for data, instances, boxes in results[1:]:
        np.testing.assert_allclose(data, results[0][0], atol=1e-5)
        np.testing.assert_array_equal(instances, results[0][1])
        np.testing.assert_allclose(boxes, results[0][2], atol=1e-9)


@pytest.mark.parametrize("masked", [False, True])
def test_zscore_equals_nnunets(masked: bool) -> None:
    from nnunetv2.preprocessing.normalization.default_normalization_schemes import ZScoreNormalization

    images = scan()
    images[:, :, :6] = 0
    inside = np.where((images[0] != 0), 0, -1)
    theirs = ZScoreNormalization(masked, {}).run(images[0].copy(), inside)
    ours = normalise(images, (Normalisation("zscore", masked),))[0]
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_a_constant_scan_becomes_zero() -> None:
    assert not normalise(np.full((1, 4, 4, 4), 1000.1, dtype=np.float32), (Normalisation(),)).any()


def test_scheme_none_keeps_values_and_unknown_schemes_are_named() -> None:
    images = scan()
    np.testing.assert_array_equal(normalise(images, (Normalisation("none"),)), images)
    with pytest.raises(UserError, match="zscore"):
        normalise(images, (Normalisation("zcore"),))
    with pytest.raises(UserError, match="one entry per modality"):
        normalise(images, (Normalisation(),) * 2)


def test_nan_and_infinity_are_replaced_and_counted() -> None:
    images = scan(channels=2)
    images[0, 0, 0, :3] = np.nan
    images[1, 5, 5, 5] = np.inf
    recipe = Preprocessing((2.0, 1.5, 1.0), normalisation=(Normalisation(),) * 2)
    case = preprocess_case(images, Grid((12, 20, 24), (2.0, 1.0, 1.0)), None, recipe)
    assert case.nonfinite == 4
    assert np.isfinite(case.data).all()
    clean = scan()
    assert replace_nonfinite(clean)[0] is clean


def test_crop_equals_nnunets_and_lesions_that_lie_in_zeros_are_outside() -> None:
    from nnunetv2.preprocessing.cropping.cropping import crop_to_nonzero

    images = scan(channels=2)
    images[:, :2] = images[:, :, 15:] = 0
    images[0, :, :, :7] = 0
    _, _, box = crop_to_nonzero(images)
    assert foreground_extent(images) == (tuple(side[0] for side in box), tuple(side[1] for side in box))
    lesion = np.zeros(images.shape[1:], dtype=np.int16)
    lesion[1, 17, 3] = 4
    case = preprocess_case(
        images,
        Grid((12, 20, 24), (1.0, 1.0, 1.0)),
        lesion,
        Preprocessing((1.0,) * 3, normalisation=(Normalisation(),) * 2),
    )
    assert case.instances is not None
    assert not case.instances.any()
    assert list(case.outside) == [4]


def test_an_empty_scan_is_kept_whole() -> None:
    assert foreground_extent(np.zeros((1, 3, 4, 5))) == ((0, 0, 0), (3, 4, 5))


def test_boxes_of_the_scan_are_mapped_exactly() -> None:
    mask = np.zeros((12, 20, 24), dtype=np.int16)
    mask[3:5, 6:9, 10:11] = 3
    case = preprocess_case(scan(), Grid((12, 20, 24), (1.0, 0.5, 0.5)), mask, Preprocessing((1.0, 1.0, 1.0)))
    np.testing.assert_allclose(case.mapping.boxes_to_network([case.truth[3]]), [[3, 3, 5, 5, 4.5, 5.5]])
    assert case.instances is not None
    in_mask = boxes_of_instances(case.instances)[3]
    assert np.abs(in_mask - [3, 3, 5, 5, 4.5, 5.5]).max() <= 0.5


def test_lesions_that_outnumber_the_voxels_are_an_error_about_the_spacing() -> None:
    instances = np.zeros((4, 4, 4), dtype=np.uint8)
    instances[0, 0, 0], instances[3, 3, 3] = 1, 2
    with pytest.raises(UserError, match=r"2 lesions find no room in the 1x1x1 voxels of 100x100x100 mm.*spacing"):
        preprocess_case(scan((4, 4, 4)), Grid((4, 4, 4), (1.0, 1.0, 1.0)), instances, Preprocessing((100.0,) * 3))


def test_transpose_puts_the_chosen_axis_first() -> None:
    case = preprocess_case(scan(), Grid((12, 20, 24), (1.0, 1.0, 3.0)), None, Preprocessing((3.0, 1.0, 1.0), (2, 0, 1)))
    assert case.data.shape == (1, 24, 12, 20)


def test_target_shape_equals_nnunets_and_is_never_empty() -> None:
    from nnunetv2.preprocessing.resampling.default_resampling import compute_new_shape

    shape, spacing, new = (35, 301, 280), (4.0, 0.45, 0.45), (3.0, 0.5, 0.6)
    assert target_shape(shape, spacing, new) == tuple(compute_new_shape(shape, spacing, new))
    assert target_shape((1, 1, 1), (0.1, 0.1, 0.1), (1.0, 1.0, 1.0)) == (1, 1, 1)


@pytest.mark.parametrize("noise", [-1e-7, 0.0, 1e-7])
def test_the_rounding_of_a_header_moves_no_crop_and_no_shape(noise: float) -> None:
    """NIfTI holds 1.2 mm as a direction times a length, MHA and DICOM as a number: the last digits differ."""
    brain = np.zeros((60, 60, 60), bool)
    brain[20:40, 20:40, 20:40] = True
    spacing = tuple(side * (1 + noise) for side in (1.5, 1.2, 0.6))
    assert brain_extent(brain, spacing, 12.0) == ((12, 10, 0), (48, 50, 60))
    assert target_shape((41, 41, 41), spacing, (3.0, 0.8, 0.4)) == (20, 62, 62)
