import torch

from centernet.ops.federated import federated_classes

WEIGHT = torch.arange(1.0, 21).sqrt()


def test_published_draw():
    torch.manual_seed(0)
    chosen = federated_classes(torch.tensor([3, 3, 7, 20]), 6, 20, WEIGHT)
    assert chosen.tolist() == [3, 7, 20, 17, 11, 6]


def test_more_present_than_asked_are_all_returned():
    assert federated_classes(torch.arange(20), 6, 20, WEIGHT).tolist() == list(range(20))


def test_background_and_classes_beyond_the_limit_are_never_drawn():
    for seed in range(50):
        torch.manual_seed(seed)
        chosen = federated_classes(torch.tensor([1]), 5, 8, None, limit=6).tolist()
        assert len(chosen) == len(set(chosen)) == 5
        assert max(chosen) < 6


def test_fewer_drawable_than_wanted():
    assert sorted(federated_classes(torch.tensor([0]), 50, 4).tolist()) == [0, 1, 2, 3]
    assert federated_classes(torch.tensor([0]), 50, 4, torch.tensor([1.0, 0, 0, 0])).tolist() == [0]


def test_draws_follow_the_weights():
    torch.manual_seed(0)
    counts = torch.zeros(4)
    for _ in range(4000):
        counts[federated_classes(torch.tensor([3]), 2, 4, torch.tensor([1.0, 2, 5, 9]))[1]] += 1
    assert torch.allclose(counts[:3] / 4000, torch.tensor([1.0, 2, 5]) / 8, atol=0.03)
