#!/usr/bin/env bash
# One experiment of one trainer; the scripts of each trainer call it.
#
#   bash scripts/run.sh EXPERIMENT TRAINER ARGUMENTS...      e.g. bash scripts/run.sh base2new_train QIVLP dtd 1
#
# Variables: DATA (data root; the embedded world needs none), CFG (a config of the trainer instead of the published
# one), SHOTS (16), SEEDS ("1 2 3"), SOURCE (imagenet), SUB (new), OUTPUT (output), PYTHON (python).
# A finished run is skipped, an unfinished one resumed, and one with other settings in the same folder refused.
set -euo pipefail

here=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/.."
absolute() { case $1 in "" | /*) echo "$1" ;; *) [ "$here" = "$PWD" ] && echo "$1" || echo "$here/$1" ;; esac; }
DATA=$(absolute "${DATA:-}")
OUTPUT=$(absolute "${OUTPUT:-output}")
SHOTS=${SHOTS:-16}
SEEDS=${SEEDS:-1 2 3}

# usage COUNT NAMES ARGUMENTS...: unless there are COUNT arguments, say how to call it and exit.
usage() {
    local count=$1 names=$2
    shift 2
    [ $# -eq "$count" ] && return
    echo "usage: bash scripts/run.sh $EXPERIMENT $TRAINER $names   (got: $*)" >&2
    exit 2
}

# protocol ARGUMENTS...: published configs and output folders, from the same file as those of sweeps.
protocol() { "${PYTHON:-python}" -m qprompt.runs.protocol "$@"; }

# config PROTOCOL DATASET SHOTS: the config of the published experiments, unless CFG says otherwise.
config() {
    if [ -n "${CFG:-}" ]; then echo "$CFG"; else protocol config "$1" "$TRAINER" "$2" "$3"; fi
}

# folder NAME KEY=VALUE...: an output folder.
folder() {
    local name=$1
    shift
    protocol folder "$name" output="$OUTPUT" trainer="$TRAINER" shots="$SHOTS" "$@"
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
    local dataset=$1 seed=$2 cfg output
    cfg=$(config base2new "$dataset" "$SHOTS")
    output=$(folder base2new_train dataset="$dataset" cfg="$cfg" seed="$seed")
    train_py "$dataset" "$cfg" "$seed" "$output" DATASET.NUM_SHOTS "$SHOTS" DATASET.SUBSAMPLE_CLASSES base
}

run_base2new_test() { # test on the new classes; SUB=base: the base classes
    usage 2 "DATASET SEED" "$@"
    local dataset=$1 seed=$2 cfg trained
    cfg=$(config base2new "$dataset" "$SHOTS")
    trained=$(folder base2new_train dataset="$dataset" cfg="$cfg" seed="$seed")
    test_on "${SUB:-new}" "$dataset" "$cfg" "$seed" "$trained"
}

# test_on CLASSES DATASET CFG SEED MODEL_DIR: the evaluation of the base-to-new protocol.
test_on() {
    local output
    output=$(folder base2new_test dataset="$2" cfg="$3" seed="$4" classes="$1")
    train_py "$2" "$3" "$4" "$output" --eval-only --model-dir "$5" --load-epoch last \
        DATASET.NUM_SHOTS "$SHOTS" DATASET.SUBSAMPLE_CLASSES "$1"
}

run_xd_train() { # train on all classes of the source data set
    usage 2 "DATASET SEED" "$@"
    local dataset=$1 seed=$2 cfg output
    cfg=$(config cross_dataset "$dataset" "$SHOTS")
    output=$(folder all_classes dataset="$dataset" cfg="$cfg" seed="$seed")
    train_py "$dataset" "$cfg" "$seed" "$output" DATASET.NUM_SHOTS "$SHOTS"
}

run_xd_test() { # test the prompt that xd_train learned on SOURCE on another data set
    usage 2 "DATASET SEED" "$@"
    local dataset=$1 seed=$2 cfg output trained
    cfg=$(config cross_dataset "$dataset" "$SHOTS")
    output=$(folder cross_dataset dataset="$dataset" cfg="$cfg" seed="$seed")
    trained=$(folder all_classes dataset="${SOURCE:-imagenet}" cfg="$cfg" seed="$seed")
    train_py "$dataset" "$cfg" "$seed" "$output" --eval-only --model-dir "$trained" --load-epoch last \
        DATASET.NUM_SHOTS "$SHOTS"
}

run_xd_domains() { # domain generalization: test on shifted versions of ImageNet
    usage 1 "SEED" "$@"
    local dataset
    for dataset in imagenetv2 imagenet_sketch imagenet_a imagenet_r; do
        run_xd_test "$dataset" "$1"
    done
}

run_few_shot() { # train and test on all classes
    usage 2 "DATASET SHOTS" "$@"
    local dataset=$1 shots=$2 cfg seed output
    cfg=$(config few_shot "$dataset" "$shots")
    for seed in $SEEDS; do
        output=$(folder all_classes dataset="$dataset" cfg="$cfg" seed="$seed" shots="$shots")
        train_py "$dataset" "$cfg" "$seed" "$output" DATASET.NUM_SHOTS "$shots"
    done
}

run_main() { # CoOp's main script: few-shot with all settings as arguments
    usage 6 "DATASET CFG CTP NCTX SHOTS CSC" "$@"
    local dataset=$1 cfg=$2 ctp=$3 nctx=$4 shots=$5 csc=$6 seed output
    for seed in $SEEDS; do
        output=$(folder all_classes dataset="$dataset" cfg="$cfg" seed="$seed" shots="$shots" \
            variant="nctx${nctx}_csc${csc}_ctp${ctp}")
        train_py "$dataset" "$cfg" "$seed" "$output" \
            TRAINER.COOP.N_CTX "$nctx" TRAINER.COOP.CSC "$csc" TRAINER.COOP.CLASS_TOKEN_POSITION "$ctp" \
            DATASET.NUM_SHOTS "$shots"
    done
}

run_eval() { # CoOp's evaluation script: the prompt that main learned on SOURCE (with NCTX, CSC, CTP) on another data set
    usage 2 "DATASET CFG" "$@"
    local dataset=$1 cfg=$2 nctx=${NCTX:-16} csc=${CSC:-False} ctp=${CTP:-end} seed variant output trained
    variant=nctx${nctx}_csc${csc}_ctp${ctp}
    for seed in $SEEDS; do
        output=$(folder coop_eval dataset="$dataset" cfg="$cfg" seed="$seed" variant="$variant")
        trained=$(folder all_classes dataset="${SOURCE:-imagenet}" cfg="$cfg" seed="$seed" variant="$variant")
        train_py "$dataset" "$cfg" "$seed" "$output" --eval-only --model-dir "$trained" --load-epoch last \
            TRAINER.COOP.N_CTX "$nctx" TRAINER.COOP.CSC "$csc" TRAINER.COOP.CLASS_TOKEN_POSITION "$ctp"
    done
}

run_zeroshot() { # hand-written prompts, all classes
    usage 2 "DATASET CFG" "$@"
    local output
    output=$(folder zero_shot dataset="$1" cfg="$2")
    train_py "$1" "$2" 1 "$output" --eval-only DATASET.NUM_SHOTS 16
}

run_reproduce() { # test a released prompt on base and new classes
    usage 3 "DATASET SEED RELEASED   (RELEASED: a prompt file, or a folder with checkpoints in seedN/)" "$@"
    local dataset=$1 seed=$2 kind=coop released checksum cfg from classes
    [ "${TRAINER#Q}" = MaPLe ] && kind=maple
    released=$(absolute "$3")
    cfg=$(config base2new "$dataset" "$SHOTS")
    from=$released/seed$seed
    if [ -f "$released" ]; then
        # The checksum keeps two files apart: the results of one are not taken for those of the other.
        checksum=$(cksum <"$released" | cut -d ' ' -f 1)
        from=$(folder base2new_released dataset="$dataset" cfg="$cfg" seed="$seed" checksum="$checksum")
        [ -d "$from" ] || "${PYTHON:-python}" -m qprompt unpack "$released" --as "$kind" --output-dir "$from"
    fi
    for classes in base new; do
        test_on "$classes" "$dataset" "$cfg" "$seed" "$from"
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
