"""Miniatures of every source that ``nndet_convert`` reads, with the file names and oddities of the real ones."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from scipy.io import savemat
from tiny_task import tiny_case, tiny_grid

from cmb_plugin.images import Grid, boxes_of_instances, to_itk
from cmb_plugin.phantom import PhantomConfig, make_case


@dataclass
class Scan:
    """One scan set with its true instance mask."""

    images: dict[str, np.ndarray]
    mask: np.ndarray
    grid: Grid

    @property
    def centres(self) -> np.ndarray:
        """[N, 3] middles of the boxes, voxel-edge coordinates z, y, x."""
        boxes = np.array(list(boxes_of_instances(self.mask).values())).reshape(-1, 6)
        return (boxes[:, :3] + boxes[:, 3:]) / 2


def tiny_scans(count: int, seed: int = 0) -> list[Scan]:
    """Blobs on small oblique scans; the last one is healthy."""
    rng = np.random.default_rng(seed)
    scans = []
    for index in range(count):
        images, mask = tiny_case(rng, (24, 32, 32), 3, 0 if index == count - 1 else 2 + index % 2)
        named = {"t2s": images[0], "t1": images[1], "t2": images[2], "swi": images[0], "phase": images[1] / 100}
        scans.append(Scan(named, mask, tiny_grid((24, 32, 32), (1.5, 1.2, 1.2))))
    return scans


def phantom_scans(count: int, seed: int = 7) -> list[Scan]:
    """Phantoms of protocol ``tiny``, each with lesions; of those that touch, one is taken out of the truth."""
    scans = []
    for index in range(count):
        case = make_case(seed, index, PhantomConfig(("tiny",), ("swi",), ("cmb",)))
        swi = case.images["swi"]
        scans.append(Scan({"swi": swi, "t2s": swi, "t1": swi + 1, "t2": swi + 2}, case.mask, case.grid))
    return scans


def save(path: Path, array: np.ndarray, grid: Grid) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    stored = array.astype(np.uint16) if array.dtype == bool else array
    sitk.WriteImage(to_itk(stored, grid), str(path))
    return path


def write_valdo(root: Path, scans: Sequence[Scan]) -> Path:
    """Numbers 2 and 3 in masks, no mask for the healthy, NaN in T1, T1 and T2 headers that are slightly off."""
    for index, scan in enumerate(scans):
        name = f"sub-{(1, 2, 3)[index % 3]}{index + 1:02d}"
        folder = root / "Task2" / name
        t1 = scan.images["t1"].astype(np.float32)
        t1[0, 0, :3] = np.nan
        x, y, z = scan.grid.origin
        off = Grid(scan.grid.shape, scan.grid.spacing, (x + 0.3, y, z - 0.2), scan.grid.direction)
        save(folder / f"{name}_space-T2S_desc-masked_T2S.nii.gz", scan.images["t2s"], scan.grid)
        save(folder / f"{name}_space-T2S_desc-masked_T1.nii.gz", t1, off)
        save(folder / f"{name}_space-T2S_desc-masked_T2.nii.gz", scan.images["t2"], off)
        if (mask := scan.mask).any():
            numbers = (mask > 0) * (2 if index % 2 else 1) + (mask == 1) * (1 if index % 2 else 0)
            save(folder / f"{name}_space-T2S_CMB.nii.gz", numbers.astype(np.float32), scan.grid)
    return root / "Task2"


def write_cuhk(root: Path, scans: Sequence[Scan], whole: bool = True) -> Path:
    """MATLAB files with ``cen`` and ``gt_num``, centres from 1; uncompressed NIfTI."""
    for index, scan in enumerate(scans, start=1):
        save(root / "nii" / f"{index:02d}.nii", scan.images["swi"], scan.grid)
        (root / "ground_truth").mkdir(exist_ok=True)
        centres = one_based(scan, whole)
        savemat(root / "ground_truth" / f"{index:02d}.mat", {"cen": centres, "gt_num": len(centres)})
    return root


def write_csiro(root: Path, scans: Sequence[Scan]) -> Path:
    """Two time points of a subject, a synthetic copy of it, a doubled row, cells with a blank, healthy subjects, and
    synthetic lesions in one of them."""
    share = root / "PublicDataShare_2020"
    real: list[list[object]] = []
    positive = [scan for scan in scans if scan.mask.any()]
    for index, scan in enumerate(positive):
        name = f"{242 + index // 2}_T{index % 2}_MRI_SWI_BFC_50mm_HM"
        save(share / "rCMB_DefiniteSubject" / f"{name}.nii.gz", scan.images["swi"], scan.grid)
        real.append([f"{name}.nii.gz", *one_based(scan).ravel().tolist()])
    real.append(real[0])
    first = positive[0]
    copy = "242_T0_MRI_SWI_BFC_50mm_HM_rsCMB_V1"
    save(share / "sCMB_DefiniteSubject" / f"{copy}.nii.gz", first.images["swi"], first.grid)
    healthy = [scan for scan in scans if not scan.mask.any()]
    for index, scan in enumerate(healthy):
        name = f"{900 + index}_T0_MRI_SWI_BFC_50mm_HM.nii.gz"
        save(share / "NoCMBSubject" / name, scan.images["swi"], scan.grid)
    synthetic = "777_T0_MRI_SWI_BFC_50mm_HM_sCMB_V2"
    save(share / "sCMB_NoCMBSubject" / f"{synthetic}.nii.gz", first.images["swi"], first.grid)
    _excel(share / "rCMBInformationInfo.xlsx", real)
    _excel(share / "sCMBInformationInfo.xlsx", [[f"{copy}.nii.gz", *one_based(first)[0].tolist()]])
    _excel(
        share / "sCMBLocationInformationInfoNocmb.xlsx", [[f"{synthetic}.nii.gz", *one_based(first).ravel().tolist()]]
    )
    return share


def write_rodeja(root: Path, scans: Sequence[Scan]) -> Path:
    """Any numbers, one per lesion, as 64-bit floating point; uncompressed masks beside compressed scans."""
    for index, scan in enumerate(scans, start=1):
        save(root / f"H{index:03d}.nii.gz", scan.images["swi"], scan.grid)
        numbers = np.where(scan.mask > 0, scan.mask * 7 + 3, 0).astype(np.float64)
        save(root / f"H{index:03d}mask.nii", numbers, scan.grid)
    return root


def write_bids(root: Path, scans: Sequence[Scan]) -> Path:
    """Sessions of one subject, sidecars, participants.tsv; masks for even scans, tables of points in RAS mm for odd."""
    sites = [["participant_id", "site"]]
    for index, scan in enumerate(scans):
        subject, session = f"sub-{index // 2:02d}", f"ses-{index % 2 + 1}"
        name = f"{subject}_{session}"
        save(root / subject / session / "swi" / f"{name}_swi.nii.gz", scan.images["swi"], scan.grid)
        sidecar = root / subject / session / "swi" / f"{name}_swi.json"
        sidecar.write_text(json.dumps({"MagneticFieldStrength": 3, "EchoTime": 0.02}))
        folder = root / "derivatives" / "rater1" / subject / session / "swi"
        if index % 2 == 0:
            save(folder / f"{name}_label-CMB_mask.nii.gz", (scan.mask > 0).astype(np.uint8), scan.grid)
        else:
            world = scan.grid.to_world(scan.centres) * (-1, -1, 1)
            folder.mkdir(parents=True)
            _table(folder / f"{name}_label-CMB_points.tsv", [["x_ras", "y_ras", "z_ras"], *world.tolist()], "\t")
        if index % 2 == 0:
            sites.append([subject, f"site{index // 2 % 2}"])
    _table(root / "participants.tsv", sites, "\t")
    return root


def write_table(root: Path, scans: Sequence[Scan], kinds: Sequence[str] = ("mask", "points", "boxes")) -> Path:
    """A CSV in which scans take turns in their kind of label; phase as a second modality on a grid of its own."""
    rows: list[list[object]] = [["Subject", "session", "SWI", *kinds, "Site", "field_strength_t"]]
    for index, scan in enumerate(scans):
        save(root / "scans" / f"{index}.nii.gz", scan.images["swi"], scan.grid)
        kind = kinds[index % len(kinds)]
        cells = dict.fromkeys(kinds, "")
        if not scan.mask.any():
            cells[kind] = "healthy"
        else:
            cells[kind] = str(_label_file(root, index, scan, kind).relative_to(root))
        rows.append([f"p{index}", "", f"scans/{index}.nii.gz", *cells.values(), f"site{index % 2}", 3])
    return _table(root / "scans.csv", rows)


def _label_file(root: Path, index: int, scan: Scan, kind: str) -> Path:
    if kind == "mask":
        return save(root / f"{index}_mask.nii.gz", (scan.mask > 0).astype(np.uint8), scan.grid)
    if kind == "instances":
        return save(root / f"{index}_instances.nii.gz", scan.mask * 3, scan.grid)
    if kind == "points":
        rows = (scan.centres - 0.5)[:, ::-1].tolist()
        return _table(root / f"{index}_points.csv", [["x_voxel", "y_voxel", "z_voxel"], *rows])
    corners = np.array(list(boxes_of_instances(scan.mask).values()))[:, [2, 1, 0, 5, 4, 3]]
    header = [f"{name}_voxel" for name in ("x0", "y0", "z0", "x1", "y1", "z1")]
    return _table(root / f"{index}_boxes.csv", [header, *corners.tolist()])


def write_dicom(folder: Path, array: np.ndarray, grid: Grid, kind: str = "M", echo_ms: float = 20.0) -> Path:
    """A series of one file per slice, named so that their order says nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    image = to_itk(array.astype(np.int16), grid)
    direction = image.GetDirection()
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    series = f"1.2.826.0.1.3680043.2.1125.1.{abs(hash((kind, echo_ms))) % 10**8}"
    for z in range(image.GetDepth()):
        piece = image[:, :, z]
        tags = {
            "0008|0060": "MR",
            "0008|0008": f"ORIGINAL\\PRIMARY\\{kind}\\ND",
            "0018|0081": f"{echo_ms:g}",
            "0018|0087": "3",
            "0020|000e": series,
            "0020|000d": "1.2.826.0.1.3680043.2.1125.2",
            "0008|0018": f"{series}.{z + 1}",
            "0020|0013": str(z + 1),
            "0020|0032": "\\".join(f"{v:.6f}" for v in image.TransformIndexToPhysicalPoint((0, 0, z))),
            "0020|0037": "\\".join(f"{direction[i]:.8f}" for i in (0, 3, 6, 1, 4, 7)),
            "0018|0050": f"{grid.spacing[0]:g}",
        }
        for tag, value in tags.items():
            piece.SetMetaData(tag, value)
        writer.SetFileName(str(folder / f"{kind}{echo_ms:g}_{(z * 7) % image.GetDepth():03d}_{z}.dcm"))
        writer.Execute(piece)
    return folder


def one_based(scan: Scan, whole: bool = True) -> np.ndarray:
    """[N, 3] x, y, z voxel indices from 1; whole numbers, as the real sets have them, or exact."""
    centres = scan.centres[:, ::-1] + 0.5
    return np.floor(centres).astype(int) if whole else centres


def _excel(path: Path, rows: Sequence[Sequence[object]]) -> None:
    """Header as in the real tables, with a blank at the end; cells without a lesion hold a blank."""
    from openpyxl import Workbook

    book = Workbook()
    width = max(len(row) for row in rows)
    header: list[object] = ["NIFTI File Name "]
    for number in range(1, (width - 1) // 3 + 1):
        header += [f"Location CMB # {number}", None, None]
    book.active.append(header)
    for row in rows:
        book.active.append([*row, *[" "] * (width - len(row))])
    book.save(path)


def _table(path: Path, rows: Sequence[Sequence[object]], delimiter: str = ",") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as lines:
        csv.writer(lines, delimiter=delimiter).writerows(rows)
    return path


def affine(path: Path) -> np.ndarray:
    """The affine as nibabel reads it, which shares no code with what is tested."""
    return np.asarray(nib.load(path).affine)
