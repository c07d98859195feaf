#!/usr/bin/env bash
# QMaPLe, cross-dataset: test the prompt that xd_train.sh learned on SOURCE (imagenet) on another data set.
#   bash scripts/qmaple/xd_test.sh DATASET SEED
exec bash "$(dirname "$0")/../run.sh" xd_test QMaPLe "$@"
