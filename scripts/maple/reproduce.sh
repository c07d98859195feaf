#!/usr/bin/env bash
# MaPLe, test on base and new classes what others released: a prompt file, or checkpoints in RELEASED/seedN.
#   bash scripts/maple/reproduce.sh DATASET SEED RELEASED
exec bash "$(dirname "$0")/../run.sh" reproduce MaPLe "$@"
