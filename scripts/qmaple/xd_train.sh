#!/usr/bin/env bash
# QMaPLe, cross-dataset: train on all classes of the source data set.
#   bash scripts/qmaple/xd_train.sh DATASET SEED
exec bash "$(dirname "$0")/../run.sh" xd_train QMaPLe "$@"
