#!/usr/bin/env bash
# QMaPLe, base-to-new: train on the base classes.
#   bash scripts/qmaple/base2new_train.sh DATASET SEED
exec bash "$(dirname "$0")/../run.sh" base2new_train QMaPLe "$@"
