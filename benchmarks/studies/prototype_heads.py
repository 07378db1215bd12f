"""Which prototype head ranks candidates best, on the frozen features of a trained CMBRetinaUNet.

    python -m benchmarks.studies.prototype_heads Task110_Mixed CMBRetinaUNet_D3CMB_3d_both_seed0 [--batches 120]

Collects the feature windows of lesions and of mined mimics from augmented training patches, and those of all
candidates of the validation scans. Heads of several shapes are trained on the first (400 steps each, seconds) and rank
the second: the FROC score by the probability of the prototypes alone, and by its geometric mean with the detector's
score. The detector's own ranking stands above. Possible lesions count as lesions here. Prints a Markdown table; takes
some minutes.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from cmb_plugin.trainers.cmb.prototypes import PrototypeHead, hard_mimics, peaks_near, windows
from cmb_plugin.trainers.cmb.replay import MimicPatches
from torch import Tensor, nn

from benchmarks.tools.markdown import table_head, table_row
from benchmarks.tools.measured_on import measured_on
from cmb_plugin.commands.cli import command, parser
from cmb_plugin.commands.names import find_model, find_task
from cmb_plugin.evaluation import EvaluationConfig, froc_curve, match_by_distance, sensitivity_at
from cmb_plugin.evaluation.matching import FALSE, TRUE
from cmb_plugin.files import read_json
from cmb_plugin.inference import InferenceConfig, predict_array
from cmb_plugin.networks import autocast
from cmb_plugin.plugins import trainers
from cmb_plugin.preparation import StoredCase
from cmb_plugin.settings import read_settings, typed
from cmb_plugin.training import Augmentation, AugmentConfig, PreparedCases
from cmb_plugin.training.patches import collate

STEPS = 400
LESIONS, MIMICS = 12, 64  # per step


@dataclass(frozen=True)
class Variant:
    """A head to try. ``hidden`` 0: one linear layer; None: the feature vector itself."""

    window: int = 3
    embedding: int = 16
    gamma: float = 0.5
    concentration: float = 0.05
    hidden: int | None = 32
    dropout: float = 0.0
    placed: bool = True


VARIANTS = {
    "as it is": Variant(),
    "prototypes begin at random": Variant(placed=False),
    "32 dimensions, gamma 1, concentration 0.01": Variant(embedding=32, gamma=1.0, concentration=0.01, hidden=64),
    "dropout 0.3": Variant(dropout=0.3),
    "linear": Variant(hidden=0),
    "window 1": Variant(window=1),
    "window 1, no embedding (Kim et al.)": Variant(window=1, hidden=None, gamma=0.1, concentration=0.01),
}


def build(variant: Variant, channels: int, classes: int) -> PrototypeHead:
    """The head of a variant for feature maps of ``channels``."""
    size = channels * variant.window**3
    dimensions = size if variant.hidden is None else variant.embedding
    head = PrototypeHead(channels, [4] * classes + [8], dimensions, variant.gamma, variant.window)
    dropout = nn.Dropout(variant.dropout)
    if variant.hidden is None:
        head.embedding = nn.Sequential(nn.Identity())
    elif variant.hidden == 0:
        head.embedding = nn.Sequential(dropout, nn.Linear(size, dimensions))
    else:
        layers = nn.Linear(size, variant.hidden), nn.ReLU(), nn.Linear(variant.hidden, dimensions)
        head.embedding = nn.Sequential(dropout, *layers)
    return head


def mined(module: Any, data: MimicPatches, batches: int, per_crop: int = 16) -> tuple[Tensor, Tensor]:
    """Windows [N, C * 27] of lesions and mimics of training patches, and their classes [N]."""
    stride, spacing = module.stride, module.plan.preprocessing.spacing
    found, classes = [], []
    for index in range(batches):
        size = data.batch_size
        batch = collate([data[index * size + item] for item in range(size)])
        with torch.inference_mode(), autocast(torch.device("cpu"), module.trainer_cfg.precision):
            output = module.network(batch.images)
        features, scores = output.features[0], module.score_map(output, size)
        lesions, labels = module.lesion_places(batch, features.shape[2:])
        mimics = hard_mimics(scores, batch.boxes, stride, spacing, per_crop, module.model_cfg.mimic_distance_mm)
        found.append(windows(features, torch.cat([lesions, peaks_near(scores, lesions), mimics]), 3).float())
        classes.append(torch.cat([labels, labels, torch.full((len(mimics),), len(module.plan.classes))]))
    return torch.cat(found), torch.cat(classes)


class _Windows(nn.Module):
    """In the place of an embedding: passes windows of 27 vectors on."""

    def forward(self, found: Tensor) -> Tensor:
        """[N, C * 27] as they are."""
        return found


def candidates(module: Any, cases: Sequence[StoredCase]) -> tuple[Tensor, np.ndarray, np.ndarray, int]:
    """Windows [D, C * 27] of all detections of scans, their scores, which are lesions, and the number of lesions."""
    head = module.prototypes
    head.embedding, head.window = _Windows(), 3
    # What the real head says of these is not asked for, and its prototypes have other dimensions.
    head.squared_distances = lambda found: torch.zeros(len(found), len(head.owner))
    module.keep_embeddings = True
    settings = InferenceConfig(overlap=0.25, foreground=False)
    found, scores, right, lesions = [], [], [], 0
    for case in cases:
        detections = predict_array([module], case.data, settings).detections
        match = match_by_distance(
            detections.boxes, case.boxes, module.plan.preprocessing.spacing, EvaluationConfig().match_mm
        )
        found.append(torch.from_numpy(detections.columns["embedding"]))
        scores.append(detections.columns["score_rpn"])
        right.append(match >= 0)
        lesions += len(case.boxes)
    return torch.cat(found).float(), np.concatenate(scores), np.concatenate(right), lesions


def froc_score(scores: np.ndarray, right: np.ndarray, lesions: int, cases: int) -> float:
    """Mean sensitivity at the rates of false positives, candidates ranked by ``scores``."""
    order = np.argsort(-scores, kind="stable")
    curve = froc_curve(scores[order], np.where(right[order], TRUE, FALSE), lesions, cases)
    return float(np.mean([rate or 0.0 for rate in sensitivity_at(curve, EvaluationConfig().fp_rates)]))


def learn(variant: Variant, data: Tensor, classes: Tensor, seed: int) -> PrototypeHead:
    """A head trained on mined windows of the variant's size."""
    torch.manual_seed(seed)
    channels = data.shape[1] // variant.window**3
    head = build(variant, channels, int(classes.max()))
    optimizer = torch.optim.AdamW(head.parameters(), lr=1e-3, weight_decay=1e-2)
    generator = torch.Generator().manual_seed(seed)
    mimic = classes == classes.max()
    pools = [(~mimic).nonzero().squeeze(1), mimic.nonzero().squeeze(1)]
    for step in range(STEPS):
        drawn = [
            pool[torch.randint(len(pool), (count,), generator=generator)]
            for pool, count in zip(pools, (LESIONS, MIMICS), strict=True)
        ]
        chosen = torch.cat(drawn)
        embeddings = head.embedding(data[chosen])
        if step == 0 and variant.placed:
            head.begin_at(embeddings.detach(), classes[chosen], generator)
        loss = head.loss(embeddings, classes[chosen], variant.concentration)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return head.eval()


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table."""
    arguments = parser(__doc__)
    arguments.add_argument("task")
    arguments.add_argument("model")
    arguments.add_argument("--fold", type=int, default=0)
    arguments.add_argument("--batches", type=int, default=120, help="of training patches (default: %(default)s)")
    arguments.add_argument("--seeds", type=int, default=3)
    args = arguments.parse_args(argv)
    task = find_task(args.task)
    fold = find_model(task, args.model).fold(args.fold)
    settings = read_settings(fold.settings)
    module = trainers.get(settings["module"]).load(fold)
    split = read_json(fold.splits)[args.fold]
    folder = task.prepared(module.plan.name, "Tr")
    data = MimicPatches(
        PreparedCases(folder, tuple(split["train"])),
        batch_size=module.plan.batch_size,
        foreground_fraction=0.5,
        augmentation=Augmentation(
            module.plan.patch_size,
            module.plan.preprocessing.spacing,
            typed(AugmentConfig, settings["augment_cfg"], str(fold.settings)),
        ),
        patch_size=module.plan.patch_size,
        seed=77,
    )
    learned, classes = mined(module, data, args.batches)
    judged, scores, right, lesions = candidates(module, [StoredCase.open(folder, c) for c in split["val"]])
    cases = len(split["val"])
    print(
        f"{int((classes < classes.max()).sum())} places of lesions and {int((classes == classes.max()).sum())} of "
        f"mimics to learn from; {len(scores)} candidates of {cases} scans with {lesions} lesions to rank."
    )
    print(f"FROC score of the detector's own ranking: {froc_score(scores, right, lesions, cases):.3f}\n")
    print(measured_on("torch", "numpy") + "\n")
    print(table_head("head", "training loss", "prototypes alone", "with the detector's score", "prototypes in use"))
    middle = slice(13, 14)
    for name, variant in VARIANTS.items():
        views = [
            w if variant.window == 3 else w.reshape(len(w), 27, -1)[:, middle].flatten(1) for w in (learned, judged)
        ]
        rows = []
        for seed in range(args.seeds):
            head = learn(variant, views[0], classes, seed)
            with torch.inference_mode():
                embeddings = head.embedding(views[1])
                lesion = 1 - head.log_probabilities(embeddings)[:, -1].exp().numpy()
                used = len(head.squared_distances(embeddings).argmin(dim=1).unique())
                loss = head.loss(head.embedding(views[0]), classes, variant.concentration).item()
            fused = np.sqrt(lesion * scores)
            rows.append([loss, *(froc_score(s, right, lesions, cases) for s in (lesion, fused)), used])
        loss, alone, fused, used = np.mean(rows, axis=0)
        spread = np.ptp([row[2] for row in rows])
        cells = (f"{loss:.2f}", f"{alone:.3f}", f"{fused:.3f} (spread {spread:.3f})", f"{used:.1f}")
        print(table_row(name, *cells), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
