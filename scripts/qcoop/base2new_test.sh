#!/usr/bin/env bash
# QCoOp, base-to-new: test on the new classes (SUB=base: the base classes).
#   bash scripts/qcoop/base2new_test.sh DATASET SEED
exec bash "$(dirname "$0")/../run.sh" base2new_test QCoOp "$@"
