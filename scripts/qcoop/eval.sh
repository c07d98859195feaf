#!/usr/bin/env bash
# QCoOp, CoOp's evaluation script: test the prompt that main.sh learned on SOURCE (imagenet) on another data set.
#   bash scripts/qcoop/eval.sh DATASET CFG
exec bash "$(dirname "$0")/../run.sh" eval QCoOp "$@"
