#!/usr/bin/env bash
# QMaPLe, few-shot: train and test on all classes, seeds 1 to 3.
#   bash scripts/qmaple/few_shot.sh DATASET SHOTS
exec bash "$(dirname "$0")/../run.sh" few_shot QMaPLe "$@"
