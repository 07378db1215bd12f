#!/usr/bin/env bash
# Microbleeds found without training: fresh phantoms, the package's own model, a report page per scan, and how many of
# the lesions it found. `make demo` runs this. Everything lands in ./demo; what is finished is not done twice.
set -euo pipefail

export det_data="${PWD}/demo/data" det_models="${PWD}/demo/models"
task=Task101_Fresh found=demo/found
started=${SECONDS}

run() {
    printf '\n[%d s] $ %s\n' "$((SECONDS - started))" "$*"
    "$@"
}

# Of a protocol that the model was not trained on.
run nndet_example --task "${task}" --train 0 --test 4 --healthy 0.25 --protocol demo --modalities swi --seed 4
run nndet_predict pretrained --input "demo/data/${task}/raw_splitted/imagesTs" --output "${found}" --regions auto
run nndet_eval "${task}" --test --predictions "${found}" --output "${found}/measured"

printf '\n[%d s] Done. Pages to look at:\n' "$((SECONDS - started))"
find "${found}" -name '*.html' | sort
printf '\nJudge them yourself in a browser: nndet_review %s\n' "${found}"
