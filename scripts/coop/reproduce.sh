#!/usr/bin/env bash
# CoOp, test on base and new classes what others released: a prompt file, or checkpoints in RELEASED/seedN.
#   bash scripts/coop/reproduce.sh DATASET SEED RELEASED
exec bash "$(dirname "$0")/../run.sh" reproduce CoOp "$@"
