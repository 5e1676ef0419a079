"""Speed options on a tiny model: what they change, what they must not, what they refuse."""

import importlib.util
import sys
from types import SimpleNamespace

import pytest
import torch

from vera_planner.wan import speed
from vera_planner.wan.caches import CacheSettings
from vera_planner.wan.layouts import LAYOUTS
from vera_planner.wan.model import WanDenoiser, build_transformer
from vera_planner.wan.sampler import sample_future
from vera_planner.wan.speed import SpeedError, SpeedOptions, accelerate

TINY = LAYOUTS['tiny']


@pytest.fixture
def denoiser():
    torch.set_num_threads(1)
    return WanDenoiser(build_transformer(TINY, seed=1), TINY)


def plan(denoiser, steps=2, **settings):
    g = torch.Generator().manual_seed(5)
    context, text, negative = (
        torch.randn(1, 16, 1, 4, 4, generator=g),
        torch.randn(1, 5, 384, generator=g),
        torch.randn(1, 5, 384, generator=g),
    )
    return sample_future(
        denoiser, context, 1, text, negative, steps=steps, generator=g, **settings
    )


def test_compiled_blocks_give_the_same_plan(denoiser, monkeypatch):
    full = plan(denoiser)
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    block = type(denoiser.transformer.blocks[0])
    plain = block.compile
    monkeypatch.setattr(
        block, 'compile', lambda self, **given: plain(
            self, backend=backend, fullgraph=given['fullgraph'], dynamic=given['dynamic']
        ),
    )  # fmt: skip
    torch._dynamo.reset()
    accelerate(denoiser.transformer, SpeedOptions(compile='default'))
    assert torch.allclose(plan(denoiser), full, atol=1e-4)
    assert len(graphs) == 1  # one graph for both blocks and both steps
    plan(denoiser)
    assert len(graphs) == 1


def test_a_cache_works_inside_compiled_blocks(denoiser, monkeypatch):
    block = type(denoiser.transformer.blocks[0])
    plain = block.compile
    monkeypatch.setattr(
        block, 'compile',
        lambda self, **given: plain(self, backend='eager', fullgraph=given['fullgraph']),
    )  # fmt: skip
    torch._dynamo.reset()
    cache = accelerate(
        denoiser.transformer,
        SpeedOptions(compile='default', cache=CacheSettings('first_block', threshold=0.5)),
    )
    first = plan(denoiser, steps=8, hooks=cache)
    assert 0 < cache.saved < 1
    assert torch.equal(plan(denoiser, steps=8, hooks=cache), first)


def test_an_attention_backend_computes_the_same_and_is_this_models_only(denoiser):
    from diffusers.models.attention_dispatch import _AttentionBackendRegistry as Registry

    full, before = plan(denoiser), Registry.get_active_backend()
    accelerate(denoiser.transformer, SpeedOptions(attention='_native_math'))
    chosen = {m.processor._attention_backend for m in denoiser.transformer.modules()
              if hasattr(m, 'processor')}  # fmt: skip
    assert {backend.value for backend in chosen} == {'_native_math'}
    assert torch.allclose(plan(denoiser), full, atol=1e-5)
    assert Registry.get_active_backend() == before


@pytest.mark.parametrize('backend', ['flash', 'no_such_backend'])
def test_an_attention_backend_that_is_not_there_is_refused(denoiser, backend):
    if backend == 'flash' and importlib.util.find_spec('flash_attn'):
        pytest.skip('flash-attn is here')
    with pytest.raises(SpeedError, match=backend):
        accelerate(denoiser.transformer, SpeedOptions(attention=backend))


def test_cast_weights_take_a_byte_and_change_the_plan_a_little(denoiser):
    full = plan(denoiser)
    accelerate(denoiser.transformer, SpeedOptions(cast='float8_e4m3fn'))
    kinds = {p.dtype for p in denoiser.transformer.blocks[0].ffn.parameters()}
    assert kinds == {torch.float8_e4m3fn}
    near = plan(denoiser)
    assert 0 < (near - full).norm() < 0.2 * full.norm()


def test_quantisation_without_its_package_names_it(denoiser, monkeypatch):
    monkeypatch.setattr(speed.importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(SpeedError, match='pip install torchao'):
        accelerate(denoiser.transformer, SpeedOptions(quantise='int8'))


def test_quantisation_takes_the_linear_layers_of_the_blocks_only(denoiser, monkeypatch):
    taken, configs = [], []

    def quantize_(model, config, wanted):
        configs.append(config)
        taken.extend(name for name, module in model.named_modules() if wanted(module, name))

    fake = SimpleNamespace(quantize_=quantize_, Int8WeightOnlyConfig=lambda: 'int8')
    monkeypatch.setattr(speed.importlib.util, 'find_spec', lambda name: object())
    monkeypatch.setitem(sys.modules, 'torchao', SimpleNamespace(quantization=fake))
    monkeypatch.setitem(sys.modules, 'torchao.quantization', fake)
    accelerate(denoiser.transformer, SpeedOptions(quantise='int8'))
    assert configs == ['int8'] and len(taken) == TINY.layers * 10
    assert all(name.startswith('blocks.') for name in taken)
    with pytest.raises(SpeedError, match='float8'):
        accelerate(denoiser.transformer, SpeedOptions(quantise='fp8'))


def lora_file(folder, rank=2, naming='diffusers', layer=0):
    """A low-rank change of one layer, as a file; returns the file and the change."""
    from safetensors.torch import save_file

    g = torch.Generator().manual_seed(4)
    a, b = torch.randn(rank, TINY.dim, generator=g), torch.randn(TINY.dim, rank, generator=g)
    if naming == 'wan':
        name = f'diffusion_model.blocks.{layer}.self_attn.q'
        tensors = {f'{name}.lora_down.weight': a, f'{name}.lora_up.weight': b}
    else:
        name = f'transformer.blocks.{layer}.attn1.to_q'
        tensors = {f'{name}.lora_A.weight': a, f'{name}.lora_B.weight': b}
    file = folder / f'{naming}.safetensors'
    save_file({key: value.contiguous() for key, value in tensors.items()}, str(file))
    return file, b @ a


@pytest.mark.parametrize('naming', ['diffusers', 'wan'])
def test_a_few_step_adapter_is_merged_into_the_weights(denoiser, tmp_path, naming):
    file, change = lora_file(tmp_path, naming=naming)
    before = denoiser.transformer.blocks[0].attn1.to_q.weight.detach().clone()
    accelerate(denoiser.transformer, SpeedOptions(lora=str(file), lora_scale=0.5))
    layer = denoiser.transformer.blocks[0].attn1.to_q
    assert isinstance(layer, torch.nn.Linear) and type(layer).__name__ == 'Linear'
    assert torch.allclose(layer.weight, before + 0.5 * change, atol=1e-5)
    assert plan(denoiser, steps=4, text_guidance=0, history_guidance=0).isfinite().all()


def test_offloaded_weights_are_changed_as_those_that_are_not(denoiser, tmp_path):
    file, _ = lora_file(tmp_path)
    options = SpeedOptions(lora=str(file), cast='float8_e4m3fn')
    offloaded = WanDenoiser(build_transformer(TINY, seed=1), TINY)
    cpu = torch.device('cpu')
    offloaded.transformer.enable_group_offload(
        onload_device=cpu, offload_device=cpu, offload_type='block_level', num_blocks_per_group=1
    )
    plain = plan(offloaded)
    for model in (denoiser, offloaded):
        accelerate(model.transformer, options)
    assert torch.equal(plan(offloaded), plan(denoiser))
    assert not torch.allclose(plan(offloaded), plain, atol=1e-3)


def test_an_adapter_of_another_model_or_no_file_is_refused(denoiser, tmp_path):
    from safetensors.torch import save_file

    other = tmp_path / 'other.safetensors'
    save_file({'proj_out.weight': torch.zeros(2, 4)}, str(other))
    deep, _ = lora_file(tmp_path, layer=7)
    for ref, message in ((other, 'changes nothing'), (deep, 'changes blocks.7.attn1.to_q')):
        with pytest.raises(SpeedError, match=message):
            accelerate(denoiser.transformer, SpeedOptions(lora=str(ref)))
    with pytest.raises(SpeedError, match='no such file'):
        accelerate(denoiser.transformer, SpeedOptions(lora='owner/name:file.safetensors@main'))


@pytest.mark.parametrize(
    'options, message',
    [({'quantise': 'int3'}, 'quantise'), ({'cast': 'float8'}, 'cast'),
     ({'compile': 'fast'}, 'compile'), ({'processes': 0}, 'processes'),
     ({'quantise': 'int8', 'cast': 'float8_e4m3fn'}, 'two ways'),
     ({'processes': 2, 'batched': False}, 'batched')],
)  # fmt: skip
def test_options_that_cannot_be_are_refused_by_name(options, message):
    with pytest.raises(SpeedError, match=message):
        SpeedOptions(**options)
