#!/usr/bin/env bash
# MaPLe, test on base and new classes the released prompts in FOLDER/seedN.
#   bash scripts/maple/reproduce.sh DATASET SEED FOLDER
exec bash "$(dirname "$0")/../run.sh" reproduce MaPLe "$@"
