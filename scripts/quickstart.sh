#!/usr/bin/env bash
# Quickstart on a fresh machine: install, draw the embedded data set, train CoOp and QCoOp on base classes, test on base
# and new classes, print one table and plot accuracy over epochs. Run again, it resumes.
# Arguments replace keys of configs/sweeps/quickstart.yaml: bash scripts/quickstart.sh seeds=1-5
set -euo pipefail
INSTALL=".[plot]"
# shellcheck source-path=SCRIPTDIR source=env.sh
source "$(dirname "$0")/env.sh"

output=${OUTPUT:-output/quickstart}
"$PYTHON" -m qprompt sweep configs/sweeps/quickstart.yaml "output=$output" "$@"
"$PYTHON" -m qprompt report "$output" --out "$output/report"
echo "Tables, figures and one page to open: $output/report"
