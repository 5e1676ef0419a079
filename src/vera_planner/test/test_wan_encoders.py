"""Words through UMT5 and MiniLM, pictures through CLIP, with small random encoders."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import (
    AutoTokenizer,
    CLIPVisionConfig,
    CLIPVisionModel,
    PreTrainedTokenizerFast,
    UMT5Config,
    UMT5EncoderModel,
)

from vera_planner.text import shared_encoder
from vera_planner.wan.checkpoints import open_planner, write_planner
from vera_planner.wan.image_encoder import ImageEncoder, ImageEncoderError
from vera_planner.wan.layouts import WanLayout
from vera_planner.wan.model import WanDenoiser, build_transformer, build_vae
from vera_planner.wan.text import CACHED, MiniLmText, TextError, Umt5Text

DIM, PICTURE = 24, 20
LAYOUT = WanLayout(
    'custom', 48, 96, 4, 2, in_channels=36, text_dim=DIM, freq_dim=32, image_dim=PICTURE,
    vae_width=8,
)  # fmt: skip


def umt5() -> UMT5EncoderModel:
    torch.manual_seed(3)
    config = UMT5Config(
        vocab_size=64, d_model=DIM, d_kv=8, d_ff=32, num_layers=2, num_heads=3,
        feed_forward_proj='gated-gelu',
    )  # fmt: skip
    return UMT5EncoderModel(config).eval()


def tokenizer() -> PreTrainedTokenizerFast:
    """One token for each byte class, and the end marker of T5 behind each sentence."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = {'<pad>': 0, '</s>': 1, '<unk>': 2, 'touch': 3, 'the': 4, 'red': 5, 'disc': 6}
    built = Tokenizer(models.WordLevel(words, unk_token='<unk>'))
    built.pre_tokenizer = pre_tokenizers.Whitespace()
    built.post_processor = processors.TemplateProcessing(
        single='$A </s>', special_tokens=[('</s>', 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=built, pad_token='<pad>', eos_token='</s>', unk_token='<unk>'
    )


def clip() -> CLIPVisionModel:
    torch.manual_seed(4)
    config = CLIPVisionConfig(
        hidden_size=PICTURE, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2,
        image_size=224, patch_size=14, hidden_act='gelu',
    )  # fmt: skip
    return CLIPVisionModel(config).eval()


class Counting:
    """Loads the small encoder, and counts how often it is loaded and asked."""

    def __init__(self) -> None:
        self.loaded, self.asked = 0, 0

    def __call__(self):
        self.loaded += 1
        model = umt5()
        model.register_forward_hook(self._count)
        return model, tokenizer()

    def _count(self, *_):
        self.asked += 1


def test_umt5_is_what_wans_pipeline_computes():
    """There the prompt is padded to 512 tokens and masked, and what is padding becomes zeros."""
    found = Umt5Text(Counting(), DIM)('touch the red disc')
    assert found.shape == (512, DIM)
    assert found.dtype == torch.float32
    batch = tokenizer()(
        ['touch the red disc'], padding='max_length', max_length=512, return_tensors='pt'
    )
    with torch.no_grad():
        hidden = umt5()(batch.input_ids, batch.attention_mask).last_hidden_state[0]
    count = int(batch.attention_mask.sum())
    assert count == 5
    assert (found[:count] - hidden[:count]).abs().max() < 1e-5
    assert not found[count:].any()
    assert found[:count].abs().mean() > 1e-3


def test_prompts_are_encoded_once_and_the_encoder_can_leave():
    counting = Counting()
    text = Umt5Text(counting, DIM)
    assert counting.loaded == 0, 'nothing is loaded before a prompt comes'
    first = text('touch the red disc')
    assert torch.equal(text('  touch  the\nred disc '), first)
    assert torch.equal(text('touch &#116;he red disc'), first)
    assert (counting.loaded, counting.asked) == (1, 1)
    first.zero_()
    assert text('touch the red disc').any(), 'what callers do to their copy stays with them'
    text.release()
    text('touch the red disc')
    assert counting.loaded == 1
    text('touch the disc')
    assert (counting.loaded, counting.asked) == (2, 2)
    for i in range(CACHED):
        text(f'red {"disc " * (i % 7)}{i}')
    assert len(text._known) == CACHED


@pytest.mark.parametrize(
    'prompt', ['', 'touch ' * 5000, '触摸红色圆盘', 'المس القرص', '\ud800 half a character', '\0']
)
def test_prompts_that_nobody_expects(prompt):
    found = Umt5Text(Counting(), DIM, length=64)(prompt)
    assert found.shape == (64, DIM)
    assert found.isfinite().all()
    assert found[0].any()


def test_what_is_no_prompt_or_no_encoder_of_this_model():
    with pytest.raises(TextError, match='NoneType'):
        Umt5Text(Counting(), DIM)(None)
    with pytest.raises(TextError, match='24 channels; the model wants 4096'):
        Umt5Text(Counting())('touch')


def test_minilm_gives_the_sentence_and_its_tokens():
    text = MiniLmText(12)
    found = text('touch the red disc')
    assert found.shape == (12, 384)
    sentence = torch.from_numpy(shared_encoder()('touch the red disc'))
    assert torch.allclose(found[0], sentence * 384**0.5, atol=1e-4)
    rows = found.norm(dim=1)
    assert torch.allclose(rows[:7], torch.full((7,), 384**0.5), atol=1e-3)  # 4 words, 2 markers
    assert not found[7:].any()
    assert torch.equal(text('touch the red disc'), found)
    assert (text('touch the blue disc')[1:7] - found[1:7]).abs().max() > 0.1
    assert text('touch ' * 2000)[11].any()


def test_clip_sees_the_whole_canvas():
    model = clip()
    encoder = ImageEncoder(model, PICTURE)
    frame = np.random.default_rng(0).integers(0, 256, (64, 192, 3), dtype=np.uint8)
    found = encoder(frame)
    assert found.shape == (257, PICTURE)
    assert found.dtype == torch.float32
    pixels = torch.from_numpy(frame).permute(2, 0, 1)[None].float() / 255
    pixels = torch.nn.functional.interpolate(pixels, (224, 224), mode='bicubic')
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(1, 3, 1, 1)
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(1, 3, 1, 1)
    with torch.no_grad():
        states = model((pixels - mean) / std, output_hidden_states=True).hidden_states
    assert len(states) == 4
    assert (found - states[2][0]).abs().max() < 1e-5
    other = frame.copy()
    other[:, -8:] = 255 - other[:, -8:]  # the right edge of the last view
    assert (encoder(other) - found).abs().max() > 1e-3


@pytest.mark.parametrize('shape', [(1, 64, 64, 3), (64, 64), (64, 64, 4)])
def test_clip_takes_frames_only(shape):
    encoder = ImageEncoder(clip(), PICTURE)
    with pytest.raises(ImageEncoderError, match='expected uint8'):
        encoder(np.zeros(shape, np.uint8))
    with pytest.raises(ImageEncoderError, match='float32'):
        encoder(np.zeros((64, 64, 3), np.float32))


def test_an_image_encoder_of_another_size_is_refused():
    with pytest.raises(
        ImageEncoderError, match='257 tokens of 20 channels; the model wants 257 of'
    ):
        ImageEncoder(clip(), 1280)


def test_a_whole_i2v_planner_opens_from_its_folder(tmp_path):
    base = tmp_path / 'base'
    umt5().save_pretrained(base / 'text_encoder')
    tokenizer().save_pretrained(base / 'tokenizer')
    clip().save_pretrained(base / 'image_encoder')
    denoiser = WanDenoiser(build_transformer(LAYOUT, seed=1), LAYOUT)
    names = ('text_encoder', 'tokenizer', 'image_encoder')
    parts = {name: str(base / name) for name in names}
    write_planner(tmp_path / 'p', denoiser, build_vae(LAYOUT, seed=2), parts=parts)
    opened = open_planner(str(tmp_path / 'p'), device='cpu')
    words = opened.text('touch the red disc')
    assert torch.allclose(words, Umt5Text(Counting(), DIM)('touch the red disc'))
    assert isinstance(AutoTokenizer.from_pretrained(base / 'tokenizer').vocab_size, int)
    assert opened.image is not None
    seen = opened.image(np.full((64, 64, 3), 90, np.uint8))
    x, levels = torch.randn(1, 16, 2, 2, 2), torch.rand(1, 2)
    with torch.inference_mode():
        found = opened.denoiser(x, levels, words[None], seen[None])
        blind = opened.denoiser(x, levels, words[None])
        expected = denoiser(x, levels, words[None], seen[None])
    assert torch.equal(found, expected)
    assert (found - blind).abs().max() > 1e-4, 'the picture counts'
