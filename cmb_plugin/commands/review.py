"""``nndet_review``."""

from __future__ import annotations

import argparse
import getpass
import importlib.util
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cmb_plugin.documents import counted
from cmb_plugin.errors import UserError

from .cli import command, parser
from .names import find_folds, find_model, find_task, new_task, split_named

if TYPE_CHECKING:
    from cmb_plugin.review.session import ReviewSession


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Judge what a model found, in a browser on this machine, and make labels of it.

    Examples:
        nndet_review found                                           what nndet_predict --output found wrote
        nndet_review Task101_CMB                                     the test scans that its only model has predicted
        nndet_review 101 CMBRetinaUNet_D3CMB_3d 0 --test_split       the scans that fold 0 held out
        nndet_review 101 --predictions found                         predictions elsewhere of the Task's test scans
        nndet_review 101 --queue queue.json                          what nndet_active chose, in its order
        nndet_review 101 --reader second                             a second reader, who does not see the first
        nndet_review 101 --export Task301_Reviewed                   what is judged becomes training cases
        nndet_review 101 --agreement ann second                      how far two readers agree: numbers and a figure

    Open the address that is printed: it holds a token, and only this machine is answered. Ctrl-C ends the server.
    Keys: n next, p previous, a accept, r reject, u unsure, o possible, + add at the cursor, Backspace undo, ? all keys.

    Files: ${det_data}/{task}/review/{reader}/{case}.*.json, or found/review/{reader}/..., whole after every decision,
    and decisions.tsv, who decided what and when. Run again to go on. Needs pip install cmb_plugin[review]; no internet
    is used (docs/review.md).
    """
    arguments = parser(main.__doc__)
    arguments.add_argument("task", help="number, name or path of the Task folder, or a folder of predictions")
    arguments.add_argument("model", nargs="?", help="name or path of the model folder; the only one by default")
    arguments.add_argument("fold", nargs="?", type=int, help="its number; -1 takes all trained folds (default)")
    arguments.add_argument("--test_split", action="store_true", help="scans that the folds held out, not test scans")
    arguments.add_argument("--unseen", action="store_true", help="scans of the domain that training left out")
    arguments.add_argument("--predictions", metavar="DIR", help="predictions of test scans elsewhere")
    arguments.add_argument("--queue", metavar="FILE", help="scans that nndet_active chose, in its order")
    arguments.add_argument("--reader", help="who judges; your user name by default")
    arguments.add_argument("--port", type=int, default=0, help="of the server; any free one by default")
    arguments.add_argument("--export", metavar="TASK", help="write a Task folder of what is judged, and serve nothing")
    arguments.add_argument(
        "--done_only", action="store_true", help="leave out scans that nobody has looked at as a whole"
    )
    arguments.add_argument("--agreement", nargs=2, metavar="READER", help="compare two readers, and serve nothing")
    arguments.add_argument("--overwrite", action="store_true", help="replace an earlier export")
    args = arguments.parse_args(argv)
    session = _session(args)
    if args.export:
        from cmb_plugin.review.export import export

        target = new_task(args.export, option="--export")
        report = export(session, target, overwrite=args.overwrite, done_only=args.done_only)
        for case_id, reason in report.left_out.items():
            print(f"left out {case_id}: {reason}")
        if report.in_places:
            print(f"judged in places only: {', '.join(report.in_places)} (docs/active_learning.md)")
        lesions = counted(sum(report.lesions.values()), "lesion")
        print(f"{counted(len(report.lesions), 'scan')} with {lesions}: {report.task.root}")
        return 0
    if args.agreement:
        from cmb_plugin.review.agreement import agreement_text, compare_readers, write_agreement

        first, second = map(session.read_by, args.agreement)
        if first.store.folder == second.store.folder:
            raise UserError(f"--agreement {' '.join(args.agreement)}: is one reader", remedy="name two")
        agreement = compare_readers(first, second)
        figure = write_agreement(agreement, session.store.folder.parent / "agreement")
        print(f"{agreement_text(agreement)}\n{figure}")
        return 0
    for name in ("starlette", "uvicorn"):
        if importlib.util.find_spec(name) is None:
            raise UserError(f"{name} is not installed", remedy='pip install "cmb_plugin[review]"')
    from cmb_plugin.files import locked
    from cmb_plugin.review.server import serve

    with locked(session.store.folder / ".lock"):
        print(f"{session.title}: {counted(len(session.cases), 'scan')}, reader {session.store.reader}")
        reviews = serve(session, args.port, lambda address: print(f"Open {address}", flush=True))
    states = [review.state() for review in reviews]
    judged = sum(any("verdict" in lesion for lesion in state["lesions"].values()) for state in states)
    done = sum(state["done"] for state in states)
    print(f"{judged} of {counted(len(states), 'scan')} judged, {done} of them done; run it again to go on")
    return 0


def _session(args: argparse.Namespace) -> ReviewSession:
    from cmb_plugin.dataset import Dataset
    from cmb_plugin.models.trained import PARTS
    from cmb_plugin.review.session import ReviewSession

    reader = args.reader or re.sub(r"[^A-Za-z0-9_-]", "_", getpass.getuser())
    folder = Path(args.task)
    if (folder / "run.json").is_file():
        _refuse_beside_folder(args)
        return ReviewSession.of_folder(folder, reader)
    dataset = Dataset.load(find_task(args.task))
    split = split_named({"val": args.test_split, "unseen": args.unseen}, "test")
    if args.queue is not None:
        from cmb_plugin.review.queue import ReviewQueue

        queue = ReviewQueue.load(Path(args.queue))
        if queue.task != dataset.task.name:
            raise UserError(f"{args.queue}: is of {queue.task}", remedy=f"run nndet_review {queue.task} --queue ...")
        return ReviewSession.of_queue(dataset, queue, reader)
    if args.predictions is not None:
        folder = Path(args.predictions)
        cases = [case.case_id for case in dataset.cases(PARTS[split])]
        return ReviewSession.of(dataset, dict.fromkeys(cases, folder), PARTS[split], reader, folder.name)
    model = find_folds(find_model(dataset.task, args.model), args.fold)
    if split == "test":
        folders = dict.fromkeys((case.case_id for case in dataset.cases("Ts")), model.place.predictions("test"))
    else:
        held_out = model.held_out_cases(dataset.task, split)
        folders = {case: model.folder.fold(fold).predictions(split) for case, fold in held_out.items()}
    return ReviewSession.of(dataset, folders, PARTS[split], reader, model.title)


def _refuse_beside_folder(args: argparse.Namespace) -> None:
    """Refuses what chooses predictions of a Task, where the folder of predictions is named itself."""
    chosen = {
        "MODEL": args.model,
        "--test_split": args.test_split,
        "--unseen": args.unseen,
        "--predictions": args.predictions,
        "--queue": args.queue,
    }
    given = [name for name, value in chosen.items() if value]
    if given:
        raise UserError(f"{args.task}: is a folder of predictions", remedy=f"leave out {', '.join(given)}")
