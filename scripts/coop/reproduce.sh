#!/usr/bin/env bash
# CoOp, base-to-new: test a released prompt. RELEASED: a prompt file, or a folder with checkpoints in seedN/.
#   bash scripts/coop/reproduce.sh DATASET SEED RELEASED
exec bash "$(dirname "$0")/../run.sh" reproduce CoOp "$@"
