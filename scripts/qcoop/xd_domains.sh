#!/usr/bin/env bash
# QCoOp, domain generalization: test the prompt of xd_train.sh on ImageNetV2, -Sketch, -A and -R.
#   bash scripts/qcoop/xd_domains.sh SEED
exec bash "$(dirname "$0")/../run.sh" xd_domains QCoOp "$@"
