"""Passes over all samples, at once or over the parts of a packed file: steps and logits."""

from __future__ import annotations

from typing import Any, TypeAlias, TypeGuard

import numpy as np

from fastmlp import backend
from fastmlp.kernels.nets import Net
from fastmlp.kernels.parts import Part
from fastmlp.kernels.scores import hit_scales
from fastmlp.packing import PackedMatrix
from fastmlp.packs import MappedMatrix
from fastmlp.samples import Samples

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]


def step(gradient: Array, parameters: Array, net: Net, samples: Samples) -> tuple[float, float, float]:
    """Set ``gradient`` (k,) to the weighted mean gradient; return the sums of loss, weight of hits, weight."""
    x, y, w = samples
    kernels = backend.kernels()
    if not _in_parts(x):
        whole: tuple[float, float, float] = kernels.network_step(gradient, parameters, net, x.operands(w.dtype), y, w)
        return whole
    scales = hit_scales(net.loss, y, w)
    sums = kernels.begin_parts(parameters, net, x.shape[1], dense=x.all_dense)
    for some, leaves, operand in x.pieces(w.dtype):
        kernels.enter(sums, net, operand, Part(leaves[0], y[..., some], w[some], scales))
        kernels.accumulate(sums, *leaves)
    result: tuple[float, float, float] = kernels.finish(gradient, sums)
    return result


def logits(parameters: Array, net: Net, x: PackedMatrix) -> Array:
    """Return the logits (C, m)."""
    kernels = backend.kernels()
    out = np.empty((net.sizes[-1], x.shape[1]), parameters.dtype)
    if not _in_parts(x):
        kernels.network_logits(out, parameters, net, x.operands(parameters.dtype))
        return out
    for some, _, operand in x.pieces(parameters.dtype):
        part = np.empty((len(out), some.stop - some.start), out.dtype)
        kernels.network_logits(part, parameters, net, operand, dense=x.all_dense)
        out[:, some] = part
    return out


def _in_parts(x: PackedMatrix) -> TypeGuard[MappedMatrix]:
    return isinstance(x, MappedMatrix) and x.is_divided
