#!/usr/bin/env bash
# CoOp, CoOp's evaluation script: test the prompt that main.sh learned on SOURCE (imagenet) on another data set.
#   bash scripts/coop/eval.sh DATASET CFG
exec bash "$(dirname "$0")/../run.sh" eval CoOp "$@"
