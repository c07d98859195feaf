#!/usr/bin/env bash
# CoOp, CoOp's main script: few-shot, seeds 1 to 3.
#   bash scripts/coop/main.sh DATASET CFG CTP NCTX SHOTS CSC
exec bash "$(dirname "$0")/../run.sh" main CoOp "$@"
