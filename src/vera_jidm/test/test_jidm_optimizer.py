"""Muon and AdamW as one optimiser."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from vera_jidm.optimizer import MuonAdamW, orthogonalize


@pytest.mark.parametrize('shape', [(8, 20), (20, 8), (16, 16), (1, 5)])
def test_orthogonalize_brings_every_direction_to_about_one(shape: tuple[int, int]) -> None:
    matrix = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    found = orthogonalize(matrix)
    values = torch.linalg.svdvals(found)
    assert found.shape == matrix.shape
    assert float(values.min()) > 0.6 and float(values.max()) < 1.3
    # The directions stay: U' X V is positive on the diagonal.
    u, _, vt = torch.linalg.svd(matrix, full_matrices=False)
    assert float(torch.diagonal(u.T @ found @ vt.T).min()) > 0.5


def test_a_zero_gradient_moves_nothing() -> None:
    assert torch.equal(orthogonalize(torch.zeros(3, 4)), torch.zeros(3, 4))


def test_vectors_follow_adamw() -> None:
    start = torch.randn(7, generator=torch.Generator().manual_seed(1))
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    one = MuonAdamW([ours], lr=0.01, betas=(0.9, 0.99), weight_decay=0.1)
    two = torch.optim.AdamW([theirs], lr=0.01, betas=(0.9, 0.99), weight_decay=0.1)
    for step in range(5):
        gradient = torch.randn(7, generator=torch.Generator().manual_seed(step))
        for p, optimizer in ((ours, one), (theirs, two)):
            p.grad = gradient.clone()
            optimizer.step()
    torch.testing.assert_close(ours, theirs)


def test_state_survives_saving() -> None:
    def make() -> tuple[nn.Module, MuonAdamW]:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(2, 40, 3), nn.Flatten(), nn.Linear(160, 3))
        return net, MuonAdamW(net.parameters(), lr=0.01)

    def go(net: nn.Module, optimizer: MuonAdamW, seed: int) -> None:
        x = torch.randn(5, 2, 4, 4, generator=torch.Generator().manual_seed(seed))
        optimizer.zero_grad()
        net(x).square().mean().backward()
        optimizer.step()

    net, optimizer = make()
    go(net, optimizer, 1)
    other, second = make()
    other.load_state_dict(net.state_dict())
    second.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    go(net, optimizer, 2)
    go(other, second, 2)
    for a, b in zip(net.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_norm_of_an_update_is_of_adamws_size() -> None:
    weight = nn.Parameter(torch.randn(32, 16, 3, 3, generator=torch.Generator().manual_seed(0)))
    before = weight.detach().clone()
    weight.grad = torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
    MuonAdamW([weight], lr=0.01, gain=1.0, matrix_decay=0.0).step()
    rms = float((weight.detach() - before).square().mean().sqrt())
    # AdamW's first step has rms lr.
    assert 0.1 * 0.01 < rms < 0.4 * 0.01
