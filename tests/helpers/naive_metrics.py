"""Metrics of hidden states by their definition, one pair of states at a time."""

import numpy as np
import torch
from tiny import tiny
from torch import nn

from layerprune.model.stack import decoder_stack
from layerprune.prune.hidden_states import mean_distances

NORMS = {"llama": "norm", "gpt2": "ln_f"}


def pairwise(pair):
    """Distances by `pair(x, y)`, of a state x and a later state y: a mean over tokens and texts."""

    def distances(sequences):
        size = sequences[0].shape[1]
        matrix = np.zeros((size, size))
        for i in range(size):
            for j in range(i + 1, size):
                means = [np.mean([pair(x[i], x[j]) for x in states]) for states in sequences]
                matrix[i, j] = matrix[j, i] = np.mean(means)
        return matrix

    return distances


def compare_with_naive(metric, naive, families=("llama", "gpt2")):
    """Compare a metric with `metric.tokens=all` to `naive(sequences)`, each states [N, S, H]."""
    for family in families:
        model = tiny(family)
        ids_BT = torch.randint(3, 96, (5, 12), generator=torch.Generator().manual_seed(1))
        length_B = torch.tensor([12, 7, 9, 12, 6])
        batches = [(ids_BT[:3], length_B[:3]), (ids_BT[3:], length_B[3:])]
        actual = mean_distances(model, batches, metric)
        # transformers gives the last state after the final norm: without it, it is the layer's.
        setattr(decoder_stack(model).decoder, NORMS[family], nn.Identity())
        sequences = []
        for ids_T, length in zip(ids_BT, length_B, strict=True):
            with torch.inference_mode():
                states = model(ids_T[None, :length], output_hidden_states=True).hidden_states
            sequences.append(torch.stack(states)[:, 0, 1:].transpose(0, 1).double().numpy())
        expected = naive(sequences)
        assert expected[0, 1] > 0.01, "states that differ, or this shows nothing"
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)
