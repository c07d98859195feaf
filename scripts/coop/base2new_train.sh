#!/usr/bin/env bash
# CoOp, base-to-new: train on the base classes.
#   bash scripts/coop/base2new_train.sh DATASET SEED
exec bash "$(dirname "$0")/../run.sh" base2new_train CoOp "$@"
