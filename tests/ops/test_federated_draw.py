"""The classes of a step are drawn with the chances that the weights say (chi-square over many draws)."""

import itertools

import pytest
import torch
from scipy.stats import chisquare

from centernet.ops.federated import federated_classes

LABELS = torch.tensor([3, 3, 7, 20])  # of the specification's vector: 20 is background
WEIGHT = torch.arange(1.0, 21).sqrt()
SURE = 1e-4  # a correct sampler fails one time in ten thousand; the seed is fixed


def test_one_drawn_class_follows_the_weights():
    torch.manual_seed(0)
    draws = torch.tensor([int(federated_classes(LABELS, 4, 20, WEIGHT)[3]) for _ in range(8_000)])
    counts = torch.bincount(draws, minlength=21)[:20].double()
    assert counts[[3, 7]].tolist() == [0, 0]
    free = [c for c in range(20) if c not in (3, 7)]
    expected = WEIGHT[free].double() / WEIGHT[free].double().sum() * len(draws)
    assert chisquare(counts[free].numpy(), expected.numpy()).pvalue > SURE
    uniform = torch.full_like(expected, len(draws) / len(free))
    assert chisquare(counts[free].numpy(), uniform.numpy()).pvalue < SURE  # the test can tell


def test_two_drawn_classes_are_drawn_one_after_the_other_without_replacement():
    weight = torch.tensor([1.0, 2, 3, 4])
    torch.manual_seed(1)
    pairs = [tuple(federated_classes(torch.tensor([4]), 3, 4, weight)[1:].tolist()) for _ in range(8_000)]
    orders = list(itertools.permutations(range(4), 2))
    w = (weight.double() / weight.double().sum()).tolist()
    expected = [w[a] * w[b] / (1 - w[a]) * len(pairs) for a, b in orders]
    assert chisquare([pairs.count(order) for order in orders], expected).pvalue > SURE


def test_without_weights_all_absent_classes_are_equally_likely():
    torch.manual_seed(2)
    draws = [int(federated_classes(torch.tensor([0, 1]), 3, 6)[2]) for _ in range(8000)]
    assert chisquare([draws.count(c) for c in range(2, 6)]).pvalue > SURE
    assert pytest.approx(1) == sum(draws.count(c) for c in range(2, 6)) / len(draws)
