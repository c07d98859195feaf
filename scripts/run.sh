#!/usr/bin/env bash
# What the scripts of each trainer share: one experiment of one trainer.
#
#   bash scripts/run.sh EXPERIMENT TRAINER ARGUMENTS...      e.g. bash scripts/run.sh base2new_train QIVLP dtd 1
#
# Variables: DATA (data root; the embedded world needs none), CFG (a config of the trainer instead of the published
# one), SHOTS (16), SEEDS ("1 2 3"), SOURCE (imagenet), SUB (new), OUTPUT (output), PYTHON (python).
# A finished run is skipped, an unfinished one taken up, one with other settings in the same folder refused.
set -euo pipefail

here=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/.."
absolute() { case $1 in "" | /*) echo "$1" ;; *) [ "$here" = "$PWD" ] && echo "$1" || echo "$here/$1" ;; esac; }
DATA=$(absolute "${DATA:-}")
OUTPUT=$(absolute "${OUTPUT:-output}")
SHOTS=${SHOTS:-16}
SEEDS=${SEEDS:-1 2 3}

# usage COUNT NAMES ARGUMENTS...: end with how to call it unless there are COUNT arguments.
usage() {
    local count=$1 names=$2
    shift 2
    [ $# -eq "$count" ] && return
    echo "usage: bash scripts/run.sh $EXPERIMENT $TRAINER $names   (got: $*)" >&2
    exit 2
}

# published DATASET SHOTS: the config of the published protocol, unless CFG says otherwise.
published() {
    if [ -n "${CFG:-}" ]; then
        echo "$CFG"
        return
    fi
    case ${TRAINER#Q}:$EXPERIMENT:$1:$2 in
        CoOp:few_shot:imagenet:* | CoOp:few_shot:*:1) echo vit_b16_ep50 ;;
        CoOp:few_shot:*:2 | CoOp:few_shot:*:4) echo vit_b16_ep100 ;;
        CoOp:few_shot:*) echo vit_b16 ;;
        CoOp:xd_*:* | CoOp:*:imagenet:*) echo vit_b16_ep50_ctxv1 ;;
        CoOp:*) echo vit_b16_ctxv1 ;;
        CoCoOp:*) echo vit_b16_c4_ep10_batch1_ctxv1 ;;
        MaPLe:xd_*) echo vit_b16_c2_ep5_batch4_2ctx_cross_datasets ;;
        MaPLe:*) echo vit_b16_c2_ep5_batch4_2ctx ;;
        IVLP:*) echo vit_b16_c2_ep5_batch4_2+2ctx ;;
        VPT:*) echo vit_b16_c2_ep5_batch4_4 ;;
        *)
            echo "No published config of $TRAINER is known here: type CFG=NAME (configs/trainers/$TRAINER/NAME.yaml)." >&2
            return 2
            ;;
    esac
}

# train_py DATASET CFG SEED FOLDER [FLAGS...] [KEY VALUE...]
train_py() {
    local dataset=$1 cfg=$2 seed=$3 folder=$4
    shift 4
    "${PYTHON:-python}" train.py \
        ${DATA:+--root "$DATA"} \
        --seed "$seed" \
        --trainer "$TRAINER" \
        --dataset-config-file "configs/datasets/$dataset.yaml" \
        --config-file "configs/trainers/$TRAINER/$cfg.yaml" \
        --output-dir "$folder" \
        --skip-finished \
        "$@"
}

run_base2new_train() { # train on the base classes
    usage 2 "DATASET SEED" "$@"
    local dataset=$1 seed=$2 cfg
    cfg=$(published "$dataset" "$SHOTS")
    train_py "$dataset" "$cfg" "$seed" "$OUTPUT/base2new/train_base/$dataset/shots_$SHOTS/$TRAINER/$cfg/seed$seed" \
        DATASET.NUM_SHOTS "$SHOTS" DATASET.SUBSAMPLE_CLASSES base
}

run_base2new_test() { # test on the new classes; SUB=base: on the base classes
    usage 2 "DATASET SEED" "$@"
    local dataset=$1 seed=$2 sub=${SUB:-new} cfg tail
    cfg=$(published "$dataset" "$SHOTS")
    tail=$dataset/shots_$SHOTS/$TRAINER/$cfg/seed$seed
    train_py "$dataset" "$cfg" "$seed" "$OUTPUT/base2new/test_$sub/$tail" \
        --eval-only --model-dir "$OUTPUT/base2new/train_base/$tail" --load-epoch last \
        DATASET.NUM_SHOTS "$SHOTS" DATASET.SUBSAMPLE_CLASSES "$sub"
}

run_xd_train() { # train on all classes, to be transferred
    usage 2 "DATASET SEED" "$@"
    local dataset=$1 seed=$2 cfg
    cfg=$(published "$dataset" "$SHOTS")
    train_py "$dataset" "$cfg" "$seed" "$OUTPUT/$dataset/$TRAINER/${cfg}_${SHOTS}shots/seed$seed" \
        DATASET.NUM_SHOTS "$SHOTS"
}

run_xd_test() { # test on another data set what xd_train learned on SOURCE
    usage 2 "DATASET SEED" "$@"
    local dataset=$1 seed=$2 cfg
    cfg=$(published "$dataset" "$SHOTS")
    train_py "$dataset" "$cfg" "$seed" "$OUTPUT/evaluation/$TRAINER/${cfg}_${SHOTS}shots/$dataset/seed$seed" \
        --eval-only --model-dir "$OUTPUT/${SOURCE:-imagenet}/$TRAINER/${cfg}_${SHOTS}shots/seed$seed" \
        --load-epoch last DATASET.NUM_SHOTS "$SHOTS"
}

run_xd_domains() { # domain generalization: test on the shifted versions of ImageNet
    usage 1 "SEED" "$@"
    local dataset
    for dataset in imagenetv2 imagenet_sketch imagenet_a imagenet_r; do
        run_xd_test "$dataset" "$1"
    done
}

run_few_shot() { # train and test on all classes
    usage 2 "DATASET SHOTS" "$@"
    local dataset=$1 shots=$2 cfg seed
    cfg=$(published "$dataset" "$shots")
    for seed in $SEEDS; do
        train_py "$dataset" "$cfg" "$seed" "$OUTPUT/$dataset/$TRAINER/${cfg}_${shots}shots/seed$seed" \
            DATASET.NUM_SHOTS "$shots"
    done
}

run_main() { # CoOp's main script: few-shot with every choice on the command line
    usage 6 "DATASET CFG CTP NCTX SHOTS CSC" "$@"
    local dataset=$1 cfg=$2 ctp=$3 nctx=$4 shots=$5 csc=$6 seed
    for seed in $SEEDS; do
        train_py "$dataset" "$cfg" "$seed" \
            "$OUTPUT/$dataset/$TRAINER/${cfg}_${shots}shots/nctx${nctx}_csc${csc}_ctp${ctp}/seed$seed" \
            TRAINER.COOP.N_CTX "$nctx" TRAINER.COOP.CSC "$csc" TRAINER.COOP.CLASS_TOKEN_POSITION "$ctp" \
            DATASET.NUM_SHOTS "$shots"
    done
}

run_eval() { # CoOp's evaluation script: on another data set what main learned on SOURCE (NCTX, CSC, CTP as there)
    usage 2 "DATASET CFG" "$@"
    local dataset=$1 cfg=$2 nctx=${NCTX:-16} csc=${CSC:-False} ctp=${CTP:-end} seed common
    common=nctx${nctx}_csc${csc}_ctp${ctp}
    for seed in $SEEDS; do
        train_py "$dataset" "$cfg" "$seed" \
            "$OUTPUT/evaluation/$TRAINER/${cfg}_${SHOTS}shots/$common/$dataset/seed$seed" \
            --eval-only --model-dir "$OUTPUT/${SOURCE:-imagenet}/$TRAINER/${cfg}_${SHOTS}shots/$common/seed$seed" \
            --load-epoch last \
            TRAINER.COOP.N_CTX "$nctx" TRAINER.COOP.CSC "$csc" TRAINER.COOP.CLASS_TOKEN_POSITION "$ctp"
    done
}

run_zeroshot() { # hand-written prompts, all classes
    usage 2 "DATASET CFG" "$@"
    train_py "$1" "$2" 1 "$OUTPUT/$TRAINER/$2/$1" --eval-only DATASET.NUM_SHOTS 16
}

run_reproduce() { # test on base and new classes what somebody else trained
    usage 3 "DATASET SEED RELEASED   (RELEASED: a prompt file, or a folder with checkpoints in seedN/)" "$@"
    local dataset=$1 seed=$2 kind=coop released sub cfg from tail
    [ "${TRAINER#Q}" = MaPLe ] && kind=maple
    released=$(absolute "$3")
    cfg=$(published "$dataset" "$SHOTS")
    tail=$dataset/shots_$SHOTS/$TRAINER/$cfg/seed$seed
    from=$released/seed$seed
    if [ -f "$released" ]; then
        # The checksum keeps two files apart: results of the one are not taken for the other's.
        from=$OUTPUT/base2new/released/$(cksum <"$released" | cut -d ' ' -f 1)/$tail
        [ -d "$from" ] || "${PYTHON:-python}" -m qprompt unpack "$released" --as "$kind" --output-dir "$from"
    fi
    for sub in base new; do
        train_py "$dataset" "$cfg" "$seed" "$OUTPUT/base2new/test_$sub/$tail" \
            --eval-only --model-dir "$from" --load-epoch last \
            DATASET.NUM_SHOTS "$SHOTS" DATASET.SUBSAMPLE_CLASSES "$sub"
    done
}

EXPERIMENTS="base2new_train base2new_test xd_train xd_test xd_domains few_shot main eval zeroshot reproduce"
EXPERIMENT=${1:-} TRAINER=${2:-}
if [[ -z $TRAINER || " $EXPERIMENTS " != *" $EXPERIMENT "* ]]; then
    echo "usage: bash scripts/run.sh EXPERIMENT TRAINER ARGUMENTS...   EXPERIMENT: $EXPERIMENTS" >&2
    exit 2
fi
shift 2
"run_$EXPERIMENT" "$@"
