#!/usr/bin/env bash
# CoOp, domain generalization: test on ImageNetV2, -Sketch, -A and -R what xd_train.sh learned.
#   bash scripts/coop/xd_domains.sh SEED
exec bash "$(dirname "$0")/../run.sh" xd_domains CoOp "$@"
