#!/usr/bin/env bash
# QCoOp, cross-dataset: train on all classes of the source data set.
#   bash scripts/qcoop/xd_train.sh DATASET SEED
exec bash "$(dirname "$0")/../run.sh" xd_train QCoOp "$@"
