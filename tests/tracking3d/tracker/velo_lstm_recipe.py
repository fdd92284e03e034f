"""VeloLSTM with the weights of the reference numbers' recipe (their README, sections 1 and 7)."""

import zlib

import numpy as np
import torch

from centernet.tracking3d.motion import velo_lstm


def published_test_model(seed: int = 0):
    """The motion model of the ``lstm_*`` runs."""
    network = velo_lstm.VeloLSTM()
    state = {}
    for key, value in network.state_dict().items():
        draw = (zlib.crc32(f"motion.VeloLSTM.{key}".encode()) + 7919 * seed) % 2**32
        z = np.random.RandomState(draw).standard_normal(tuple(value.shape)).astype(np.float32)
        scale = np.float32(1 / np.sqrt(value.shape[1])) if value.ndim >= 2 else np.float32(0.05)
        state[key] = torch.from_numpy(z * scale)
    network.load_state_dict(state)
    return velo_lstm.VeloLSTMMotion(network.eval(), mode="parity")
