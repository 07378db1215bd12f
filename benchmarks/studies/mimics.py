"""What a trained CMBRetinaUNet takes for lesions, and whether its features could tell: kinds, scores, separability.

    python -m benchmarks.studies.mimics Task117_Ablation CMBRetinaUNet_D3CMB_3d_ablation_dense_HSPL_seed0
    python -m benchmarks.studies.mimics 117 MODEL --fold 0 --least 0.05

Predicts the test scans and looks at every candidate that scores at least --least: a lesion, a possible one, something
within 10 mm of a lesion, a mimic of some kind, or nothing that is known. Of each kind it says

- how many there are, and how many reach the operating point;
- how well the scores tell it from lesions: the area under the ROC curve, 0.5 not at all, 1 always;
- how well a plane through the space of the embeddings does (logistic regression, fitted on other scans). What a plane
  can tell and the scores cannot, the score leaves unused; what no plane can tell, the network does not see;
- what an oracle would bring: the FROC score if no candidate lay on such a thing.

Prints a Markdown table. Of a network without prototypes the columns on embeddings are empty.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks.tools.markdown import table_head, table_row
from benchmarks.tools.measured_on import measured_on
from cmb_plugin.commands.cli import command, parser
from cmb_plugin.commands.names import find_model, find_task
from cmb_plugin.dataset import Dataset, read_mimics, read_truth
from cmb_plugin.errors import UserError
from cmb_plugin.evaluation import CaseResult, EvaluationConfig, measure, mimic_kinds
from cmb_plugin.inference import InferenceConfig, predict_array, restore
from cmb_plugin.plugins import trainers
from cmb_plugin.preparation import StoredCase, prepared_cases
from cmb_plugin.settings import read_settings

LESION, POSSIBLE, NEAR, UNKNOWN = "lesion", "possible lesion", "near a lesion", "nothing known"
NEAR_MM = 10.0  # beyond a match; nearer than this lies what belongs to a lesion's surroundings


def kinds_of(case: CaseResult, match_mm: float) -> list[str]:
    """What each candidate of a scan is."""
    spacing = np.asarray(case.spacing)
    offsets = (case.detections.centres[:, None] - case.truth_centres[None]) * spacing
    distance = np.linalg.norm(offsets, axis=2)  # [D, L]
    nearest = distance.argmin(axis=1) if distance.shape[1] else np.zeros(len(distance), dtype=int)
    apart = distance.min(axis=1, initial=np.inf)
    mimics = mimic_kinds(case.detections.centres, case.mimics or [], case.spacing)
    names = []
    for lesion, mm, mimic in zip(nearest, apart, mimics, strict=True):
        if mm <= match_mm:
            names.append(POSSIBLE if case.possible[lesion] else LESION)
        else:
            names.append(NEAR if mm <= NEAR_MM else UNKNOWN if mimic == "none" else mimic)
    return names


def told_apart(values: np.ndarray, is_lesion: np.ndarray, scans: np.ndarray) -> float | None:
    """Area under the ROC curve of a plane through ``values`` [N, E], each scan judged by a plane fitted on others; None
    where there are too few."""
    if values.shape[1] == 0 or min(is_lesion.sum(), (~is_lesion).sum()) < 10 or len(np.unique(scans)) < 5:
        return None
    plane = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=1000))
    folds = GroupKFold(5)
    judged = cross_val_predict(plane, values, is_lesion, groups=scans, cv=folds, method="decision_function")
    return float(roc_auc_score(is_lesion, judged))


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table."""
    arguments = parser(__doc__)
    arguments.add_argument("task", help="number, name or path of a prepared Task folder with labelled test scans")
    arguments.add_argument("model", help="number or name of a trained CMBRetinaUNet")
    arguments.add_argument("--fold", type=int, default=0, help="(default: %(default)s)")
    arguments.add_argument("--least", type=float, default=0.05, help="score of a candidate (default: %(default)s)")
    args = arguments.parse_args(argv)
    folder = find_task(args.task)
    fold = find_model(folder, args.model).fold(args.fold)
    module = trainers.get(read_settings(fold.settings)["module"]).load(fold)
    if not hasattr(module, "keep_embeddings"):
        raise UserError(f"{fold.root}: is no CMBRetinaUNet", remedy="name a model of that trainer")
    module.keep_embeddings = True
    results, kinds, scores, embeddings, scans = [], [], [], [], []
    prepared = folder.prepared(module.plan.name, "Ts")
    ready = set(prepared_cases(prepared))
    for case in Dataset.load(folder).cases("Ts"):
        if case.case_id not in ready or case.label is None:
            continue
        stored = StoredCase.open(prepared, case.case_id)
        settings = InferenceConfig(foreground=False, min_score=args.least, tta=1)
        detections = restore(predict_array([module], stored.data, settings).detections, stored.mapping)
        truth = read_truth(case)
        result = CaseResult(
            case.case_id,
            detections,
            truth.boxes,
            truth.labels,
            truth.grid.spacing,
            certainty=truth.certainty,
            mimics=read_mimics(case),
        )
        results.append(result)
        kinds += kinds_of(result, EvaluationConfig().match_mm)
        scores += detections.scores.tolist()
        embeddings += list(detections.columns.get("embedding", np.zeros((len(detections), 0))))
        scans += [len(results)] * len(detections)
    classes = Dataset.load(folder).classes
    report(results, classes, np.array(kinds), np.array(scores), np.array(embeddings), np.array(scans), args.least)
    return 0


def report(
    results: list[CaseResult],
    classes: Sequence[str],
    kinds: np.ndarray,
    scores: np.ndarray,
    embeddings: np.ndarray,
    scans: np.ndarray,
    least: float,
) -> None:
    """Prints what was measured on, and a row for each kind of candidate."""
    config = EvaluationConfig(resamples=0)
    everything = measure(results, classes, config)
    lesion = kinds == LESION
    print(f"{measured_on('torch')}; {len(results)} scans, candidates from a score of {least:g}\n")
    print(f"FROC score {everything['froc_score']:.3f}\n")
    head = ("candidate", "number", "per scan", "median score", "scores tell", "a plane tells", "FROC score without")
    print(table_head(*head))
    for kind in (LESION, POSSIBLE, NEAR, UNKNOWN, *sorted({*kinds} - {LESION, POSSIBLE, NEAR, UNKNOWN})):
        chosen = kinds == kind
        if not chosen.any():
            continue
        both = lesion | chosen
        cells = [kind, chosen.sum(), f"{chosen.sum() / len(results):.2f}", f"{np.median(scores[chosen]):.2f}"]
        if kind == LESION:
            print(table_row(*cells, "", "", ""))
            continue
        area = roc_auc_score(lesion[both], scores[both]) if lesion.any() else None
        plane = told_apart(embeddings[both], lesion[both], scans[both])
        without = measure(_without(results, kinds, scans, kind), classes, config)["froc_score"]
        print(table_row(*cells, *(_number(value) for value in (area, plane, without))))


def _without(results: list[CaseResult], kinds: np.ndarray, scans: np.ndarray, kind: str) -> list[CaseResult]:
    """The scans as an oracle leaves them that knows candidates of a kind."""
    kept = []
    for number, result in enumerate(results, start=1):
        mine = kinds[scans == number] != kind
        kept.append(CaseResult(**{**vars(result), "detections": result.detections[mine]}))
    return kept


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


if __name__ == "__main__":
    sys.exit(main())
