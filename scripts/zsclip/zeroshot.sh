#!/usr/bin/env bash
# ZeroshotCLIP, hand-written prompts, all classes.
#   bash scripts/zsclip/zeroshot.sh DATASET CFG
exec bash "$(dirname "$0")/../run.sh" zeroshot ZeroshotCLIP "$@"
