"""The operations of PyTorch that programs know: how each is called so that its answer goes into given memory."""

from __future__ import annotations

from typing import Any

import torch

from thalweg.engine.recording.tape import ATEN

# operations that compute number by number, and how they are called with `out`
POINTWISE: dict[Any, Any] = {
    ATEN.add.Tensor: torch.add, ATEN.add.Scalar: torch.add, ATEN.sub.Tensor: torch.sub, ATEN.sub.Scalar: torch.sub,
    ATEN.mul.Tensor: torch.mul, ATEN.mul.Scalar: torch.mul, ATEN.div.Tensor: torch.div, ATEN.div.Scalar: torch.div,
    ATEN.neg.default: torch.neg, ATEN.sqrt.default: torch.sqrt, ATEN.rsqrt.default: torch.rsqrt, ATEN.exp.default: torch.exp,
    ATEN.log.default: torch.log, ATEN.log1p.default: torch.log1p, ATEN.abs.default: torch.abs, ATEN.sign.default: torch.sign,
    ATEN.maximum.default: torch.maximum, ATEN.minimum.default: torch.minimum, ATEN.reciprocal.default: torch.reciprocal,
    ATEN.tanh.default: torch.tanh, ATEN.sigmoid.default: torch.sigmoid, ATEN.erf.default: torch.erf,
    ATEN.pow.Tensor_Scalar: torch.pow, ATEN.pow.Tensor_Tensor: torch.pow, ATEN.clamp.default: torch.clamp, ATEN.clamp.Tensor: torch.clamp,
    ATEN.clamp_min.default: torch.clamp_min, ATEN.clamp_max.default: torch.clamp_max, ATEN.lerp.Scalar: torch.lerp,
    ATEN.addcmul.default: torch.addcmul, ATEN.addcdiv.default: torch.addcdiv,
    ATEN.where.self: torch.where, ATEN.threshold_backward.default: ATEN.threshold_backward.grad_input,
    ATEN.sigmoid_backward.default: ATEN.sigmoid_backward.grad_input, ATEN.tanh_backward.default: ATEN.tanh_backward.grad_input,
    ATEN.eq.Tensor: torch.eq, ATEN.eq.Scalar: torch.eq, ATEN.ne.Tensor: torch.ne, ATEN.ne.Scalar: torch.ne, ATEN.gt.Tensor: torch.gt,
    ATEN.gt.Scalar: torch.gt, ATEN.ge.Tensor: torch.ge, ATEN.ge.Scalar: torch.ge, ATEN.lt.Tensor: torch.lt, ATEN.lt.Scalar: torch.lt,
    ATEN.le.Tensor: torch.le, ATEN.le.Scalar: torch.le, ATEN.logical_and.default: torch.logical_and,
    ATEN.logical_or.default: torch.logical_or, ATEN.logical_not.default: torch.logical_not,
}  # fmt: skip

# operations that need memory of their own for what they answer
APART: dict[Any, Any] = {
    ATEN.mm.default: torch.mm, ATEN.bmm.default: torch.bmm, ATEN.addmm.default: torch.addmm, ATEN.baddbmm.default: torch.baddbmm,
    ATEN.cat.default: torch.cat, ATEN.gather.default: torch.gather, ATEN.linalg_vector_norm.default: torch.linalg.vector_norm,
    ATEN._log_softmax.default: ATEN._log_softmax.out, ATEN._softmax.default: ATEN._softmax.out,
    ATEN._log_softmax_backward_data.default: ATEN._log_softmax_backward_data.out, ATEN.sum.dim_IntList: ATEN.sum.IntList_out,
    ATEN._softmax_backward_data.default: ATEN._softmax_backward_data.out, ATEN.mean.dim: ATEN.mean.out,
    ATEN.max_pool2d_with_indices_backward.default: ATEN.max_pool2d_with_indices_backward.grad_input,
    ATEN.scatter.value: ATEN.scatter.value_out, ATEN.scatter.src: ATEN.scatter.src_out,
}  # fmt: skip

GRADIENT_INPUT = {
    ATEN.threshold_backward.default, ATEN.sigmoid_backward.default, ATEN.tanh_backward.default, ATEN._softmax_backward_data.default,
    ATEN.max_pool2d_with_indices_backward.default,
}  # fmt: skip
"""Whose `out` is called grad_input."""

FILLED: dict[Any, float] = {
    ATEN.zeros_like.default: 0, ATEN.ones_like.default: 1, ATEN.new_zeros.default: 0, ATEN.new_ones.default: 1, ATEN.zeros.default: 0,
    ATEN.ones.default: 1,
}  # fmt: skip
EMPTY = {
    ATEN.empty_like.default, ATEN.new_empty.default, ATEN.empty.memory_format, ATEN.new_empty_strided.default, ATEN.empty_strided.default,
}  # fmt: skip
MADE = {
    *FILLED, *EMPTY, ATEN.full.default, ATEN.full_like.default, ATEN.new_full.default, ATEN.scalar_tensor.default, ATEN.arange.default,
    ATEN.arange.start, ATEN.arange.start_step,
}  # fmt: skip
"""What is made from shapes and constants alone."""
COPIES = {ATEN.clone.default, ATEN._to_copy.default}
SAME = {ATEN.detach.default, ATEN.alias.default, ATEN.lift_fresh.default}
