"""A CUDA device without a GPU: tensors say ``cuda:0``; every operation is checked, recorded and computed on the CPU.

Shows: operations between devices, operations without a CUDA kernel, CUDA used in a forked process, operations and host
synchronizations per training step, PyTorch's choice of attention kernel by compute capability, and the numbers of half
precision as far as the CPU's kernels round like the GPU's.

Does not show: faults and rounding of CUDA's own kernels (cuDNN, TF32, atomics), races between streams and pinned
memory, running out of memory, or speed.

Parts: `library` compiles ``guards.c``, which is preloaded into a new process; `tensor` has the tensors; `kernels` the
operations that no CPU has; `record` counts; ``python -m cuda_standin RUNS.json`` trains.
"""
