#!/usr/bin/env bash
# MaPLe, base-to-new: train on the base classes.
#   bash scripts/maple/base2new_train.sh DATASET SEED
exec bash "$(dirname "$0")/../run.sh" base2new_train MaPLe "$@"
