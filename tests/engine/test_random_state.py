import random

import numpy as np
import torch

from centernet.engine.random_state import (
    capture_random_state,
    keep_random_state,
    restore_random_state,
    seed_random_state,
)


def draw():
    return random.random(), random.gauss(0, 1), np.random.randn(), np.random.rand(), torch.rand(3).tolist()


def test_state_through_a_file_of_plain_types(tmp_path):
    draw()  # leaves a spare gaussian in python's and numpy's generator
    torch.save(capture_random_state(), tmp_path / "state")
    expected = [draw(), draw()]
    restore_random_state(torch.load(tmp_path / "state", weights_only=True))
    assert [draw(), draw()] == expected


def test_keep_even_after_an_error():
    seed_random_state(5)
    expected = draw()
    seed_random_state(5)
    try:
        with keep_random_state():
            draw()
            raise RuntimeError
    except RuntimeError:
        pass
    assert draw() == expected


def test_seeds_differ():
    draws = []
    for seed in (0, 1, 2**40):
        seed_random_state(seed)
        draws.append(draw())
    assert len({str(one) for one in draws}) == 3
