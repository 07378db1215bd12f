"""``Bids``: a BIDS data set with raw scans, and masks or points in its derivatives (bids.neuroimaging.io)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from cmb_plugin.conversion import (
    ConvertConfig,
    Converter,
    Healthy,
    Label,
    MaskLabel,
    Problem,
    SourceCase,
    boxes_of_rows,
    has_boxes,
    points_of_rows,
    read_table,
)
from cmb_plugin.errors import UserError
from cmb_plugin.images import image_stem
from cmb_plugin.plugins import register_task

MASKS = ("mask", "dseg")
TABLES = ("points", "boxes", "lesions")
SITES = ("site", "domain", "cohort", "scanner", "protocol")


@dataclass
class BidsConfig(ConvertConfig):
    """Settings of ``bids``.

    Attributes:
        derivative: name of the folder in derivatives/ that holds the labels; empty looks in all.
        label: word in the names of label files that tells them from others, as in ``label-CMB``; in any case.
        space: what plain columns x, y, z of points mean; BIDS does not say.
        missing: ``error``, or ``healthy`` where a scan without a label file has no lesion.
        instances: the numbers of a mask are lesions; otherwise its pieces are. A file that ends in ``dseg`` always has
            numbered lesions.
    """

    derivative: str = ""
    label: str = "cmb"
    space: str = ""
    missing: str = "error"
    instances: bool = False
    modalities: list[str] = field(default_factory=list)


@register_task
class Bids(Converter):
    """A BIDS data set: raw scans, labels in derivatives"""

    needs = (
        "sub-*/[ses-*/]{anat,swi}/*_{suffix}.nii.gz, and in derivatives/*/sub-*/ for each scan a mask "
        "(..._label-CMB_mask.nii.gz or _dseg.nii.gz) or a table (..._label-CMB_points.tsv, _boxes.tsv); modalities are "
        "suffixes, or entity and suffix as in part-phase_GRE; participants.tsv may name the site"
    )
    example = "bids --source my_bids --task Task106_BIDS -o convert_cfg.modalities=[swi]"
    config_class = BidsConfig
    config: BidsConfig
    modalities = ("swi",)

    def find(self, source: Path) -> Iterator[SourceCase | Problem]:
        """Scans of ``sub-*``, session by session; their labels from any folder of derivatives."""
        if not any(source.glob("sub-*")):
            raise UserError(f"{source}: holds no folder sub-*", remedy=f"it needs: {self.needs}")
        if self.config.missing not in ("error", "healthy"):
            raise UserError(f"convert_cfg.missing={self.config.missing}: unknown", remedy="give error or healthy")
        sites = _sites(source)
        for subject in sorted(path for path in source.glob("sub-*") if path.is_dir()):
            sessions = sorted(path for path in subject.glob("ses-*") if path.is_dir()) or [subject]
            for visit in sessions:
                words = [subject.name] if visit == subject else [subject.name, visit.name]
                name = "_".join(words)
                try:
                    images = [_image(visit, modality) for modality in self.modalities]
                    label, notes = self._label(source, words, images[0])
                except UserError as error:
                    yield Problem(name, visit, error.message, error.remedy)
                    continue
                yield SourceCase(
                    name,
                    tuple(images),
                    label,
                    patient=subject.name,
                    session=words[-1] if len(words) > 1 else "",
                    domain=sites.get(subject.name, ""),
                    notes=notes,
                )

    def _label(self, source: Path, words: list[str], image: Path) -> tuple[Label, tuple[str, ...]]:
        """The label file of a scan in the derivatives."""
        root = source / "derivatives" / self.config.derivative if self.config.derivative else source / "derivatives"
        pattern = "/".join(words)
        folders = [path for path in (root, *sorted(root.glob("*"))) if (path / pattern).is_dir()]
        word = self.config.label.lower()
        found = [
            path
            for folder in folders
            for path in sorted((folder / pattern).rglob(f"{'_'.join(words)}_*"))
            if word in path.name.lower() and (len(words) > 1 or "_ses-" not in path.name) and _kind(path)
        ]
        if len(found) > 1:
            files = ", ".join(str(path) for path in found)
            remedy = "choose with -o convert_cfg.derivative=NAME or convert_cfg.label=WORD"
            raise UserError(f"has {len(found)} label files: {files}", remedy=remedy)
        if not found:
            if self.config.missing == "healthy":
                return Healthy(), (f"no label file for {image.name}: taken for healthy",)
            remedy = (
                f"add {root}/NAME/{pattern}/{image.parent.name}/{'_'.join(words)}_label-CMB_mask.nii.gz, or say that "
                "such scans are healthy: -o convert_cfg.missing=healthy"
            )
            raise UserError("has no label file in the derivatives", remedy=remedy)
        path = found[0]
        if _kind(path) in MASKS:
            numbered = self.config.instances or _kind(path) == "dseg"
            return MaskLabel(path, numbered, self.config.connectivity), ()
        rows = read_table(path)
        read = boxes_of_rows if has_boxes(rows) else points_of_rows
        return read(rows, path, self.classes, self.config.space), ()


def _image(visit: Path, modality: str) -> Path:
    """The scan of a visit whose name ends in ``_{modality}``, or has its entity and suffix (``part-phase_GRE``)."""
    *entities, suffix = modality.split("_")
    images = [p for p in sorted(visit.glob("*/*")) if image_stem(p) and not p.name.startswith(".")]
    files = [p for p in images if str(image_stem(p)).endswith(f"_{suffix}")]
    found = [p for p in files if all(f"_{entity}_" in p.name for entity in entities)]
    if not entities and len(found) > 1:  # magnitude is what is meant where nothing is said
        found = [p for p in found if "_part-phase" not in p.name] or found
    if not found:
        others = sorted({str(image_stem(p)).rpartition("_")[2] for p in images})
        remedy = f"there are {', '.join(others) or 'none'}; choose with -o convert_cfg.modalities=[...]"
        raise UserError(f"has no scan of kind {modality}", remedy=remedy)
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        remedy = "name an entity too, as in -o convert_cfg.modalities=[echo-2_swi]"
        raise UserError(f"has {len(found)} scans of kind {modality}: {names}", remedy=remedy)
    return found[0]


def _kind(path: Path) -> str:
    """The last word of a label file's name, empty for a file that is none."""
    stem = image_stem(path) or (path.name.removesuffix(".tsv") if path.suffix == ".tsv" else "")
    kind = stem.rpartition("_")[2]
    allowed = MASKS if image_stem(path) else TABLES
    return kind if kind in allowed else ""


def _sites(source: Path) -> dict[str, str]:
    """Participant -> site, where participants.tsv has such a column."""
    file = source / "participants.tsv"
    if not file.is_file():
        return {}
    found = {}
    for row in read_table(file):
        site = next((row[column] for column in SITES if row.get(column)), "")
        name = row.get("participant_id", "")
        if site and name:
            found[name if re.match("sub-", name) else f"sub-{name}"] = site
    return found
