#!/usr/bin/env bash
# CoOp, base-to-new: test on the new classes (SUB=base: the base classes).
#   bash scripts/coop/base2new_test.sh DATASET SEED
exec bash "$(dirname "$0")/../run.sh" base2new_test CoOp "$@"
