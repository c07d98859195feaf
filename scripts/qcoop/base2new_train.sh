#!/usr/bin/env bash
# QCoOp, base-to-new: train on the base classes.
#   bash scripts/qcoop/base2new_train.sh DATASET SEED
exec bash "$(dirname "$0")/../run.sh" base2new_train QCoOp "$@"
