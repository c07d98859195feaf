#!/usr/bin/env bash
# MaPLe, cross-dataset: train on all classes of the source data set.
#   bash scripts/maple/xd_train.sh DATASET SEED
exec bash "$(dirname "$0")/../run.sh" xd_train MaPLe "$@"
