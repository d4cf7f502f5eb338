"""The oracle of minibatches: gradients by the oracle's formulas and the textbook form of each optimizer."""

from itertools import pairwise

import naive
import numpy as np

from fastmlp import parameters
from fastmlp.kernels import rules


def step(vector, net, x, y, weight):
    """Return the sums of loss, weight of hits and weight, and the gradient of the weighted mean loss."""
    targets, weight = naive.one_hot(y, net.sizes[-1]) if y.ndim == 1 else y, np.asarray(weight, naive.WIDE)
    loss, gradient = naive.loss_and_grad(vector, net.sizes, x, targets, weight, net.activations)
    *_, z = naive.activations_and_logits(naive.unflatten(vector, net.sizes), x, net.activations)
    hit = weight * (targets[z.argmax(axis=0), np.arange(len(weight))] == targets.max(axis=0))
    return [loss * weight.sum(), hit.sum(), weight.sum()], gradient


def train(problem):
    """Return the sums of each update, and parameters and state after the last, as `test_trainer.Problem.train`."""
    rule, sums = problem.rule, []
    vector = np.asarray(problem.parameters, naive.WIDE)
    state = [np.zeros_like(vector) for _ in range(rules.state_vectors(rule))]
    is_weight = np.zeros(len(vector), bool)
    for weights, _ in parameters.layers(is_weight, problem.sizes):
        weights[...] = True
    for number, (first, stop) in enumerate(pairwise([0, *problem.ends])):
        batch = problem.order[first:stop]
        found, g = step(vector, problem.net, problem.x[:, batch], problem.y[..., batch], problem.weight[batch])
        sums.append(found + [((vector * is_weight) ** 2).sum()] * rule.squares)
        rate, scale, keep, l2 = problem.numbers[number]
        g = g + l2 * vector * is_weight
        if rule.clip:
            g = g * (rule.clip / max(rule.clip, np.sqrt((g * g).sum())))
        if rule.kind == rules.ADAM:
            state[0] = rule.first * state[0] + (1 - rule.first) * g
            state[1] = rule.second * state[1] + (1 - rule.second) * g * g
            direction = state[0] / (np.sqrt(state[1]) * scale + rule.eps)
        elif state:
            state[0] = rule.first * state[0] + scale * g
            direction = scale * g + rule.first * state[0] if rule.nesterov else state[0]
        else:
            direction = g
        vector = keep * vector - rate * direction
    return [np.array(sums, float), vector.astype(float), *(one.astype(float) for one in state)]
