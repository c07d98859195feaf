#!/usr/bin/env bash
# QMaPLe, test on base and new classes the released prompts in FOLDER/seedN.
#   bash scripts/qmaple/reproduce.sh DATASET SEED FOLDER
exec bash "$(dirname "$0")/../run.sh" reproduce QMaPLe "$@"
