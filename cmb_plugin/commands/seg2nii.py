"""``nndet_seg2nii``."""

from __future__ import annotations

from collections.abc import Sequence

from cmb_plugin.documents import counted

from .boxes2nii import folders, predictions_options
from .cli import command


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Write the reported lesions as masks of classes: 0 background, 1 the first class of dataset.json, 2 the second.

    Examples:
        nndet_seg2nii Task101_CMB CMBRetinaUNet_D3CMB_3d -f 0            validation scans of fold 0
        nndet_seg2nii 101 --test

    Files: val_predictions_nii/ or test_predictions_nii/ beside the predictions, with {case}_segmentation.nii.gz. Masks
    in which every lesion has a number of its own are in {case}_instances.nii.gz of the predictions already.
    """
    args = predictions_options(main.__doc__).parse_args(argv)
    from cmb_plugin.models.output import export_segmentation

    for source, target in folders(args):
        print(f"{counted(len(export_segmentation(source, target)), 'case')}: {target}")
    return 0
