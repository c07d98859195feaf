#!/usr/bin/env bash
# QMaPLe, test on base and new classes what others released: a prompt file, or checkpoints in RELEASED/seedN.
#   bash scripts/qmaple/reproduce.sh DATASET SEED RELEASED
exec bash "$(dirname "$0")/../run.sh" reproduce QMaPLe "$@"
