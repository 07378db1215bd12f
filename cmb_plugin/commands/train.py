"""``nndet_train``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cmb_plugin.errors import UserError

from .cli import add_overrides, command, parser
from .names import find_task

if TYPE_CHECKING:
    from cmb_plugin.settings import Overrides


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Train one fold of a prepared task, then predict, evaluate and sweep its validation scans.

    Examples:
        nndet_train Task101_CMB                                  the default trainer on fold 0
        nndet_train 101 -f 1 -o train=fast                       fold 1 with a shorter schedule
        nndet_train 101 -o train.mode=resume                     go on after an interruption
        nndet_train 101 -o train.init=pretrained                 go on from the weights of this package
        nndet_train 101 -o exp.fold=without:ukb                  all domains but one, then measured on that one
        nndet_train 101 -o trainer_cfg.domain_balance=1 augment=domains   small domains as often as large ones
        nndet_train 101 --slurm --slurm-options partition=gpu gpus_per_node=1    a script for all folds
        nndet_train 101 --slurm submit -f 0,1 -o train=v001   hand it in (docs/cluster.md)
        nndet_train 101 -o module=MyTrainer additional_imports=[my_module]

    Settings (-o):
        module=NAME  plan=NAME  planner=NAME     trainer and plan; the defaults are CMBRetinaUNet and D3CMB_3d
        train=v001|fast|finetune|demo            preset; when none is given finetune with train.init, else v001 on a
                                                 GPU, fast on a CPU
        train.mode=new|resume|overwrite          new refuses to touch a trained model
        train.init=pretrained|FILE.cmb|CHECKPOINT|MODEL_DIR   weights to begin with, of the same network: plan for them
                                                 with nndet_prep -o plan_from=...; module and model_cfg become theirs
        augment=domains                          more changes of resolution, contrast, sharpness, bias field, noise
        exp.fold, exp.tag, exp.seed              which split, a suffix of the model's name, the seed
        exp.fold=without:DOMAIN                  all but a domain, as {module}_{plan}_without-{domain}[_{tag}]
        trainer_cfg.*, augment_cfg.*, model_cfg.*   single settings; a wrong key names the nearest known ones
        model_cfg.ffm, model_cfg.hspl            switch CMBRetinaUNet's feature fusion and prototypes off with =false
        inference_cfg.*                          how scans are tiled, for validation now and nndet_predict later

    Files: ${det_models}/{task}/{module}_{plan}[_{tag}]/fold{N}/ holds model_last.ckpt, model_best.ckpt, plan.json,
    settings.yaml, training.json (whether it has finished), history.csv, progress.png, operating_point.json,
    val_predictions/, val_results/, of a domain left out unseen_predictions/ and unseen_results/, and what the trainer
    adds, such as prototypes.json and embedding.png of CMBRetinaUNet (what detections were compared with).
    """
    arguments = parser(main.__doc__)
    arguments.add_argument("task", help="number, name or path of the Task folder")
    add_overrides(arguments)
    arguments.add_argument(
        "--sweep", action="store_true", help="accepted for nnDetection's scripts: the sweep always runs"
    )
    arguments.add_argument(
        "--slurm",
        nargs="?",
        const="print",
        choices=("print", "submit"),
        help="train nothing here: print, or submit, a Slurm job array with an entry for each fold",
    )
    arguments.add_argument(
        "-f",
        "--folds",
        action="append",
        default=[],
        metavar="N",
        help="fold, as exp.fold=N; with --slurm N,N,..., by default all",
    )
    arguments.add_argument(
        "--slurm-options",
        dest="slurm_options",
        action="extend",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="with --slurm: options of sbatch, as partition=gpu gpus_per_node=1 exclude=node1,node2 mem=32GB; a comma "
        "begins the next option where NAME= follows; time is in minutes, a day where it is not given",
    )
    args = arguments.parse_args(argv)
    folds = [fold.strip() for text in args.folds for fold in text.split(",") if fold.strip()]
    if args.slurm is not None:
        from cmb_plugin.workflows.slurm import slurm_options, training_array

        array = training_array(find_task(args.task), args.overrides, folds, slurm_options(args.slurm_options))
        print(array.script if args.slurm == "print" else array.submit())
        return 0
    if args.slurm_options:
        raise UserError(
            "--slurm-options: are for a Slurm job, this trains here", remedy="add --slurm, or leave them out"
        )
    from cmb_plugin.workflows.train import is_first_process, train
    from cmb_plugin.workflows.training_run import resolve

    run = resolve(find_task(args.task), _overrides(args.overrides, folds))
    train(run, log=print)
    if is_first_process():
        print(f"Trained {run.fold.root}")
    return 0


def _overrides(words: Sequence[str], folds: Sequence[str]) -> Overrides:
    """The settings with the fold that ``-f`` names."""
    from cmb_plugin.settings import Overrides

    overrides = Overrides.parse(words)
    if not folds:
        return overrides
    if len(folds) > 1:
        raise UserError(
            f"-f {','.join(folds)}: one fold is trained at a time",
            remedy="call nndet_train for each, or let Slurm train them with --slurm",
        )
    given = Overrides.parse([f"exp.fold={folds[0]}"])
    before, fold = overrides.copy().take("exp.fold"), given.copy().take("exp.fold")
    if before not in (None, fold):
        raise UserError(f"-f {fold}: exp.fold={before} names another fold", remedy="give one of them")
    return overrides.below({"exp.fold": fold})
