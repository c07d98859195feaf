#!/usr/bin/env bash
# Every kind of experiment on a small scale, on the embedded world and CLIP: base-to-new, few-shot, cross-dataset, an
# ablation, and a report on all of them. Under 15 minutes on 2 cores. Run again, it resumes.
# Arguments go to each sweep: bash scripts/tour.sh --jobs 4
set -euo pipefail
INSTALL=".[plot]"
# shellcheck source-path=SCRIPTDIR source=env.sh
source "$(dirname "$0")/env.sh"

output=${OUTPUT:-output/tour}
for part in base2new few_shot cross_dataset; do
    "$PYTHON" -m qprompt sweep "configs/sweeps/tour/$part.yaml" "output=$output" "$@"
done
"$PYTHON" -m qprompt sweep configs/sweeps/tour/ablation.yaml "output=$output/ablation" "$@"
"$PYTHON" -m qprompt report "$output" --out "$output/report"
echo "Tables, figures and one page to open: $output/report"
