import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open

from ebseg.checkpoint import load_checkpoint
from ebseg.data.drawn.phrases import PHRASES, SEEN_PHRASES, renamed
from ebseg.data.drawn.synthetic import draw_scene
from training.tiny.new_words import (
    Captions,
    Lessons,
    NewWords,
    RegionBank,
    clip_pair,
    contrastive_loss,
    new_tokens,
    teach,
    training_regions,
)

QUICK = Lessons(scenes=4, crops=10, steps=3, batch=32)


def bank_of(*phrases):
    count = len(phrases)
    generator = torch.Generator().manual_seed(0)
    b, c = (F.normalize(torch.randn(count, 128, generator=generator), dim=-1) for _ in range(2))
    return RegionBank(b, c, torch.tensor([PHRASES.index(p) for p in phrases]), torch.ones(count))


def test_a_region_has_two_true_texts_that_do_not_compete():
    old, new = torch.tensor([[5.0, 0.0]]), torch.tensor([[3.0, 1.0]])
    loss = contrastive_loss(old, new, torch.tensor([0]), torch.ones(1))
    new_among = torch.tensor([3.0, 1.0, 0.0]).log_softmax(0)[0]
    old_among = torch.tensor([5.0, 0.0, 1.0]).log_softmax(0)[0]
    assert loss.item() == pytest.approx(-(new_among + old_among).item(), rel=1e-6)


def test_regions_without_a_text_do_not_count():
    logits = torch.randn(3, 4)
    loss = contrastive_loss(logits, logits, torch.tensor([-1, 2, -1]), torch.ones(3))
    assert loss == contrastive_loss(logits[1:2], logits[1:2], torch.tensor([2]), torch.ones(1))
    assert contrastive_loss(logits, logits, torch.full((3,), -1), torch.ones(3)) == 0


def test_words_held_out_beside_a_regions_other_word_are_no_contrast(random_tiny):
    """Green balls are held out: a green box must not teach that green things are no spheres."""
    lesson = NewWords(random_tiny, bank_of("green box"), QUICK)
    texts = (*SEEN_PHRASES, *lesson.captions.words)
    new = torch.zeros(1, len(texts), requires_grad=True)
    labels = torch.tensor([PHRASES.index("green box")])
    lesson._region_loss(torch.zeros(1, len(texts)), new, labels, torch.ones(1)).backward()
    pull = dict(zip(texts, new.grad[0].tolist(), strict=True))
    assert pull["ball"] == 0 and pull["yellow object"] == 0  # yellow boxes are held out too
    assert pull["cone"] > 0 and pull["red object"] > 0
    assert pull["box"] < 0 and pull["green object"] < 0 and pull["green box"] < 0


def test_captions_never_name_a_held_out_combination(random_tiny, monkeypatch):
    captions = Captions(random_tiny.text)
    drawn = []

    def embed(texts):
        drawn.extend(texts)
        return torch.zeros(len(texts), 128)

    monkeypatch.setattr(captions, "_embed", embed)
    for seed in range(30):
        captions.draw(np.random.default_rng(seed))
    assert any("crimson sphere" in text for text in drawn)
    assert any("crimson ball" in text for text in drawn) and any("red sphere" in text for text in drawn)
    for text in ("emerald sphere", "green sphere", "emerald ball"):
        assert not any(text in caption for caption in drawn)


def test_training_regions_are_of_seen_phrases(random_tiny):
    bank = training_regions(clip_pair(random_tiny), 0, QUICK)
    assert len(bank.labels) > 20 and bank.labels.max() < len(SEEN_PHRASES)
    assert bank.b.shape == bank.c.shape == (len(bank.labels), 128)
    assert torch.allclose(bank.b.norm(dim=1), torch.ones(len(bank.b)))


def test_only_rows_of_new_words_are_learnt(random_tiny):
    before = {name: p.clone() for name, p in random_tiny.named_parameters()}
    names = random_tiny.text.encode_names(PHRASES)
    lessons = replace(QUICK, steps=10)
    losses = NewWords(random_tiny, bank_of("red ball", "blue box", "sky"), lessons).train(0)
    assert losses[-1] < losses[0]
    table = "text.tower.token_embedding.weight"
    for name, parameter in random_tiny.named_parameters():
        if name == table:
            changed = (parameter != before[name]).any(dim=1).nonzero()[:, 0]
            assert torch.equal(changed, new_tokens())
        else:
            assert torch.equal(parameter, before[name]), name
    assert torch.equal(random_tiny.text.encode_names(PHRASES), names)


def test_the_seed_decides(random_tiny):
    nets = [copy.deepcopy(random_tiny) for _ in range(3)]
    for net, seed in zip(nets, (0, 0, 1), strict=True):
        NewWords(net, bank_of("red ball", "blue box", "sky"), replace(QUICK, steps=2)).train(seed)
    first, again, other = (net.text.tower.token_embedding.weight for net in nets)
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_a_checkpoint_keeps_its_type_header_and_answers(random_checkpoint, tmp_path):
    out = tmp_path / "taught.safetensors"
    report = teach(random_checkpoint, out, seed=0, lessons=QUICK, held_out=2)
    assert report["old_names_before"] == report["old_names_after"]
    with safe_open(random_checkpoint, "pt") as old, safe_open(out, "pt") as new:
        assert old.metadata() == new.metadata() and set(old.keys()) == set(new.keys())
        for name in old.keys():  # noqa: SIM118 (not a dict)
            one, other = old.get_tensor(name), new.get_tensor(name)
            assert one.dtype == other.dtype == torch.float16
            rows = new_tokens() if "token_embedding" in name else []
            kept = torch.ones(len(one) if one.ndim else 1, dtype=torch.bool)
            kept[rows] = False
            assert torch.equal(one.view(len(kept), -1)[kept], other.view(len(kept), -1)[kept]), name
    image = torch.from_numpy(draw_scene(0, 0, size=(64, 64)).image).permute(2, 0, 1).float()
    nets = [load_checkpoint(path)[0] for path in (random_checkpoint, out)]
    vocabulary = nets[0].training_vocabulary
    assert torch.equal(*(net.segment(image, vocabulary, (64, 64)) for net in nets))
    assert not torch.equal(*(net.text.encode_names([renamed("red ball")]) for net in nets))
