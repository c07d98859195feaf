#!/usr/bin/env bash
# CoOp, test on base and new classes the released prompts in FOLDER/seedN.
#   bash scripts/coop/reproduce.sh DATASET SEED FOLDER
exec bash "$(dirname "$0")/../run.sh" reproduce CoOp "$@"
