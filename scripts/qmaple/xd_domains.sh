#!/usr/bin/env bash
# QMaPLe, domain generalization: test the prompt of xd_train.sh on ImageNetV2, -Sketch, -A and -R.
#   bash scripts/qmaple/xd_domains.sh SEED
exec bash "$(dirname "$0")/../run.sh" xd_domains QMaPLe "$@"
