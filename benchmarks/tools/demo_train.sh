#!/usr/bin/env bash
# The main job from nothing: phantoms, preparation, training, prediction, evaluation. `make demo-train` runs this.
# Everything lands in ./demo; run it again and what is finished is not done twice.
set -euo pipefail

export det_data="${PWD}/demo/data" det_models="${PWD}/demo/models"
task=Task100_Phantom
started=${SECONDS}

run() {
    printf '\n[%d s] $ %s\n' "$((SECONDS - started))" "$*"
    "$@"
}

# 32 scans to learn from: with 16, vessels and calcifications of unseen scans were taken for microbleeds.
run nndet_example --task "${task}" --train 32 --test 16 --healthy 0.25 --protocol demo --seed 0
run nndet_prep "${task}"
if compgen -G "${det_models}/${task}/*/fold0/model_last.ckpt" > /dev/null; then
    run nndet_train "${task}" -o train=demo train.mode=resume
else
    run nndet_train "${task}" -o train=demo
fi
run nndet_predict "${task}"
run nndet_eval "${task}" --test

printf '\n[%d s] Done. Figures to look at:\n' "$((SECONDS - started))"
find "${det_models}/${task}" -name '*.png' | sort
