"""Augmentation: seeded, bounded, each kind does what it says, parts of a batch agree with it."""

import dataclasses

import pytest
import torch
from jidm_toys import patch

from vera_jidm.augment import Augmentation

NONE = Augmentation(0, 0, 0, 0, 0)
KINDS = [f.name for f in dataclasses.fields(Augmentation)]


def images(count=24):
    one = torch.from_numpy(patch(8, 9)[0]).permute(2, 0, 1).float() / 255
    return one.expand(count, -1, -1, -1).contiguous()


def apply(augmentation, seed=0, part=slice(None), count=24):
    return augmentation(images(count), torch.Generator().manual_seed(seed), part)


def only(kind, strength=1.0):
    return dataclasses.replace(NONE, **{kind: strength})


def test_none_is_none():
    assert torch.equal(apply(NONE), images())


@pytest.mark.parametrize('kind', KINDS)
def test_each_kind_changes_images_and_grows_with_its_strength(kind):
    weak, strong = ((apply(only(kind, s)) - images()).abs() for s in (0.4, 1.0))
    assert 0 < weak.mean() < strong.mean() < 0.1
    assert strong.max() < 0.8


@pytest.mark.parametrize('kind', KINDS)
def test_the_seed_decides(kind):
    assert torch.equal(apply(only(kind)), apply(only(kind)))
    assert not torch.equal(apply(only(kind)), apply(only(kind), seed=1))


def test_images_differ_from_each_other():
    out = apply(Augmentation(1, 1, 1, 1, 1))
    assert all(not torch.equal(out[0], out[i]) for i in range(1, len(out)))


def test_parts_of_a_batch_are_parts_of_it():
    everything = Augmentation(1, 1, 1, 1, 1)
    whole = apply(everything)
    for part in (slice(0, 12), slice(12, 24), slice(1, None, 2)):
        torch.testing.assert_close(apply(everything, part=part), whole[part])


def test_colour_is_an_affine_change_of_each_channel():
    out, before = apply(only('colour')), images()
    for i in range(3):
        x, y = before[0, i].flatten(), out[0, i].flatten()
        slope = ((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum()
        assert 0.92 <= slope <= 1.08
        assert (y - y.mean() - slope * (x - x.mean())).abs().max() < 1e-5


def test_blur_and_latent_soften_half_of_the_images():
    def roughness(x):
        return (x[..., 1:] - x[..., :-1]).square().mean((1, 2, 3))

    for kind in ('blur', 'latent'):
        kept = roughness(apply(only(kind), count=200)) >= roughness(images(200)) * 0.9999
        assert 0.35 < kept.float().mean() < 0.65
    assert roughness(apply(only('blur'))).min() < 0.5 * roughness(images())[0]


def test_noise_is_white_and_small():
    noise = apply(only('noise')) - images()
    assert noise.std() < 0.015
    neighbours = (noise[..., 1:] * noise[..., :-1]).mean() / noise.square().mean()
    assert abs(neighbours) < 0.05


def test_latent_noise_is_not_white():
    grey = torch.full((64, 3, 32, 32), 0.5)
    noise = only('latent')(grey, torch.Generator().manual_seed(0)) - grey
    neighbours = (noise[..., 1:] * noise[..., :-1]).mean() / noise.square().mean()
    assert neighbours > 0.5


def test_jpeg_keeps_colours_apart():
    red = torch.zeros(8, 3, 32, 32)
    red[:, 0] = 1
    out = only('jpeg')(red, torch.Generator().manual_seed(0))
    assert out[:, 0].mean() > 0.95 and out[:, 2].mean() < 0.05


@pytest.mark.parametrize('kind', KINDS)
def test_strengths_that_make_no_sense(kind):
    with pytest.raises(ValueError, match=f'augmentation {kind} is -1'):
        only(kind, -1)
