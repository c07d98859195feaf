#!/usr/bin/env bash
# CoOp, cross-dataset: train on all classes of the source data set.
#   bash scripts/coop/xd_train.sh DATASET SEED
exec bash "$(dirname "$0")/../run.sh" xd_train CoOp "$@"
