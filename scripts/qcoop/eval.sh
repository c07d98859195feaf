#!/usr/bin/env bash
# QCoOp, CoOp's evaluation script: test on another data set what main.sh learned on SOURCE (imagenet).
#   bash scripts/qcoop/eval.sh DATASET CFG
exec bash "$(dirname "$0")/../run.sh" eval QCoOp "$@"
