#!/usr/bin/env bash
# CoCoOp, cross-dataset: train on all classes of the source data set.
#   bash scripts/cocoop/xd_train.sh DATASET SEED
exec bash "$(dirname "$0")/../run.sh" xd_train CoCoOp "$@"
