#!/usr/bin/env bash
# MaPLe, base-to-new: test a released prompt. RELEASED: a prompt file, or a folder with checkpoints in seedN/.
#   bash scripts/maple/reproduce.sh DATASET SEED RELEASED
exec bash "$(dirname "$0")/../run.sh" reproduce MaPLe "$@"
