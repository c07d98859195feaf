#!/usr/bin/env bash
# MaPLe, few-shot: train and test on all classes, seeds 1 to 3.
#   bash scripts/maple/few_shot.sh DATASET SHOTS
exec bash "$(dirname "$0")/../run.sh" few_shot MaPLe "$@"
