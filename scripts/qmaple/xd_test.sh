#!/usr/bin/env bash
# QMaPLe, cross-dataset: test on another data set what xd_train.sh learned on SOURCE (imagenet).
#   bash scripts/qmaple/xd_test.sh DATASET SEED
exec bash "$(dirname "$0")/../run.sh" xd_test QMaPLe "$@"
