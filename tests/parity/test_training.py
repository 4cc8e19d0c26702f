"""Training equals the authors': losses with their random points, gradients, what is trained and how."""

import numpy as np
import pytest
import torch

from ebseg.official import official_names
from ebseg.train import parameter_groups
from ebseg.vocabulary import Vocabulary

AUTHORS = {"class_a": "loss_ce", "class_b": "1_loss_ce", "mask": "loss_mask", "dice": "loss_dice"}


def _authors_name(name: str) -> str:
    if name == "ssc":
        return "mse_ssc_loss_1"
    for ours, theirs in AUTHORS.items():
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    raise KeyError(name)


def test_losses_and_gradients(base_net, inputs, golden_json):
    golden = golden_json("golden_train_b.json")
    images = torch.stack([inputs.image(640, 640, seed) for seed in golden["image_seeds"]])
    label_maps = np.stack([inputs.label_map(640, 640, seed) for seed in golden["label_seeds"]])
    label_maps = torch.from_numpy(np.where(label_maps == 255, -1, label_maps))

    torch.manual_seed(0)
    losses = base_net.losses(images, label_maps, Vocabulary.from_dataset("coco-stuff-171"))
    sum(losses.values()).backward()

    terms = {_authors_name(name): term.item() for name, term in losses.items()}
    assert terms == pytest.approx(golden["full_forward_seed0"], rel=1e-4)
    assert len(terms) == 41
    names = official_names(base_net)
    norms = {
        names[name]: parameter.grad.double().norm().item()
        for name, parameter in base_net.named_parameters()
        if parameter.requires_grad
    }
    base_net.zero_grad()
    assert norms == pytest.approx(golden["grad_norm_seed0"], rel=0.01)


def test_trainable_parameters_and_their_decay(base_net, golden_json):
    keys = golden_json("keys_base.json")
    names = official_names(base_net)
    trained = {names[n] for n, p in base_net.named_parameters() if p.requires_grad}
    assert trained == set(keys["trainable"])
    assert len(trained) == 324

    by_identity = {id(p): names[n] for n, p in base_net.named_parameters()}
    decay = {
        by_identity[id(p)]: group["weight_decay"]
        for group in parameter_groups(base_net, weight_decay=0.05)
        for p in group["params"]
    }
    assert decay == {group["name"]: group["wd"] for group in keys["optimizer"]["groups"]}
