#!/usr/bin/env bash
# QCoOp, test on base and new classes the released prompts in FOLDER/seedN.
#   bash scripts/qcoop/reproduce.sh DATASET SEED FOLDER
exec bash "$(dirname "$0")/../run.sh" reproduce QCoOp "$@"
