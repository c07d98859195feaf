#!/usr/bin/env bash
# QCoOp, base-to-new: test a released prompt. RELEASED: a prompt file, or a folder with checkpoints in seedN/.
#   bash scripts/qcoop/reproduce.sh DATASET SEED RELEASED
exec bash "$(dirname "$0")/../run.sh" reproduce QCoOp "$@"
