#!/usr/bin/env bash
# MaPLe, domain generalization: test the prompt of xd_train.sh on ImageNetV2, -Sketch, -A and -R.
#   bash scripts/maple/xd_domains.sh SEED
exec bash "$(dirname "$0")/../run.sh" xd_domains MaPLe "$@"
