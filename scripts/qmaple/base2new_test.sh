#!/usr/bin/env bash
# QMaPLe, base-to-new: test on the new classes (SUB=base: the base classes).
#   bash scripts/qmaple/base2new_test.sh DATASET SEED
exec bash "$(dirname "$0")/../run.sh" base2new_test QMaPLe "$@"
