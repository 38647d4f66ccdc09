#!/usr/bin/env bash
# All figures that need a GPU, in three calls of at most nine minutes: each step has its own limit, and keeps what it
# has when that is reached. Needs PyTorch, torchvision and NumPy; detsearch is taken from this working tree.
#
#     benchmarks/gpu.sh [detectors | supernet | published] [FOLDER]
#
# JSON goes to FOLDER, else to $OUT, else to benchmarks/results.
set -u
cd "$(dirname "$0")/.." || exit 1
what=${1:-detectors}
out=${2:-${OUT:-benchmarks/results}}
mkdir -p "$out"
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
status=0

measure() { # limit in seconds, name, options
    local limit=$1 name=$2
    shift 2
    timeout "$limit" python3 "benchmarks/$what.py" --device cuda --out "$out/$name.json" "$@" || {
        echo "$name ended with status $?" >&2
        status=1
    }
}

nvidia-smi --query-gpu=name,driver_version,clocks.sm,clocks.max.sm --format=csv || exit 1
case $what in
detectors)
    r50=(retinanet_resnet50_fpn fcos_resnet50_fpn fasterrcnn_resnet50_fpn maskrcnn_resnet50_fpn)
    measure 170 gpu-float32 --size 1333x800 --seconds 8 --detectors "${r50[@]}" retinanet faster_rcnn
    measure 170 gpu-bfloat16 --size 1333x800 --seconds 8 --precision bfloat16 --detectors "${r50[@]}" retinanet faster_rcnn
    measure 190 gpu-compiled --size 1333x800 --seconds 5 --tasks inference --compile --detectors "${r50[@]}"
    ;;
supernet)
    search=(--network resnet50/fpn/fcos --size 693x416 --batch 4 --seconds 30)
    measure 170 gpu-supernet-float32 "${search[@]}"
    measure 170 gpu-supernet-bfloat16 "${search[@]}" --precision bfloat16
    measure 170 gpu-supernet-contiguous "${search[@]}" --precision bfloat16 --no-channels-last
    ;;
published)
    measure 250 gpu-published-float32 --rounds 60 --seconds 150
    measure 250 gpu-published-bfloat16 --rounds 60 --seconds 150 --precision bfloat16
    ;;
*)
    echo "expected detectors, supernet or published, got $what" >&2
    exit 2
    ;;
esac
exit $status
