#!/usr/bin/env bash
# CoOp, few-shot: train and test on all classes, seeds 1 to 3.
#   bash scripts/coop/few_shot.sh DATASET SHOTS
exec bash "$(dirname "$0")/../run.sh" few_shot CoOp "$@"
