#!/usr/bin/env bash
# CoCoOp, base-to-new: train on the base classes.
#   bash scripts/cocoop/base2new_train.sh DATASET SEED
exec bash "$(dirname "$0")/../run.sh" base2new_train CoCoOp "$@"
