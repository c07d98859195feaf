#!/usr/bin/env bash
# QCoOp, test on base and new classes what others released: a prompt file, or checkpoints in RELEASED/seedN.
#   bash scripts/qcoop/reproduce.sh DATASET SEED RELEASED
exec bash "$(dirname "$0")/../run.sh" reproduce QCoOp "$@"
