import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ebseg.balance import balance, pool_dense_features
from ebseg.checkpoint import load_checkpoint
from ebseg.clip import TextClassifier
from ebseg.config import TINY, VARIANTS, BalanceConfig, LossConfig
from ebseg.errors import ImageError
from ebseg.loading import checkpoint_path
from ebseg.mask_decoder import LargestProducts, cell_maxima
from ebseg.model import EBSeg
from ebseg.pixel_decoder import DeformableAttention, Sampling
from ebseg.sam import SpatialEncoder
from ebseg.text_cache import TextEncoder
from ebseg.vocabulary import Vocabulary

LABELS = ["sky", "road", ["car", "automobile"]]


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return EBSeg(TINY)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (64, 96), (50, 77), (33, 161)])
@pytest.mark.parametrize("size", [(40, 60), (1, 1)])
def test_any_photo_gives_scores_of_the_size_asked_for(net, height, width, size):
    scores = net.segment(torch.rand(3, height, width) * 255, Vocabulary(LABELS), size)
    assert scores.shape == (3, *size)
    assert torch.isfinite(scores).all() and (scores >= 0).all()


def test_padding_is_cut_off_again(net):
    encoded = net.encode([torch.rand(3, 50, 77) * 255])
    classes = net.classify(encoded, Vocabulary(LABELS))
    assert encoded.resizable().at_test_size(0, 50).shape == (TINY.decoder.queries, 50, 77)
    assert classes.shape == (1, TINY.decoder.queries, 3)
    assert (classes.sum(dim=2) <= 1 + 1e-5).all()


ONE_GRID = [(64, 96), (50, 77), (33, 96)]
"""Photos that are all padded to 64 x 96."""


def test_a_batch_says_of_each_photo_what_it_says_of_it_alone():
    """Kernels for batches add in another order, so the last bits differ: by up to 6e-7 of a tensor's largest
    value, as measured with photos of 256 x 341 pixels.
    """
    net, _ = load_checkpoint(checkpoint_path("ebseg-tiny"))
    images = [torch.rand(3, *size, generator=torch.Generator().manual_seed(0)) * 255 for size in ONE_GRID]
    together, vocabulary = net.encode(images), Vocabulary(LABELS)
    classes = net.classify(together, vocabulary)
    assert (together.padded, together.sizes) == ((64, 96), tuple(ONE_GRID))

    def same(found, expected):
        return torch.allclose(found, expected, rtol=0, atol=5e-6 * expected.abs().max().item())

    for index, image in enumerate(images):
        alone, one = net.encode([image]), together.photo(index)
        for name in ("masks", "a", "b", "c", "dense"):
            assert same(getattr(one, name), getattr(alone, name)), name
        assert torch.allclose(one.features, alone.features, rtol=0, atol=1e-3)  # of half precision, up to 1
        assert one.resizable().size == together.resizable(index).size == alone.resizable().size
        assert same(one.resizable().logits, alone.resizable().logits)
        assert same(together.resizable(index).logits, alone.resizable().logits)
        assert same(classes[index], net.classify(alone, vocabulary)[0])
        assert (one.sizes, one.padded) == (alone.sizes, alone.padded)


def test_photos_of_different_padded_sizes_are_not_encoded_together(net):
    images = [torch.zeros(3, *size) for size in ((64, 96), (64, 97), (60, 90))]
    with pytest.raises(
        ImageError, match="photos of 96 x 64, 97 x 64, 90 x 60 pixels are not padded to one size"
    ):
        net.encode(images)


def test_labels_are_asked_for_of_what_was_encoded_before_they_were_known(net):
    image = torch.rand(3, 50, 77) * 255
    encoded = net.encode([image])
    parts = ("masks", "a", "b", "c", "dense", "features")
    before = {name: getattr(encoded, name).clone() for name in parts}
    for vocabulary in (Vocabulary(LABELS), Vocabulary(["tree"])):
        scores = net.combine(encoded.resizable(), net.classify(encoded, vocabulary)[0], (40, 60))
        assert torch.equal(scores, net.segment(image, vocabulary, (40, 60)))
    assert all(torch.equal(getattr(encoded, name), tensor) for name, tensor in before.items())
    assert encoded.nbytes == sum(tensor.nbytes for tensor in before.values()) > 2**16


def test_text_that_is_given_is_not_encoded(net, monkeypatch):
    vocabulary, image = Vocabulary(LABELS), torch.rand(3, 64, 96) * 255
    expected = net.segment(image, vocabulary, (64, 96))
    label_maps = torch.zeros(1, 64, 96, dtype=torch.int64)

    def losses(**more):
        torch.manual_seed(1)
        terms = net.losses(image[None], label_maps, vocabulary, config=LossConfig(points=64), **more)
        return [term.item() for term in terms.values()]

    by_itself = losses()
    text = TextEncoder(net.text)(vocabulary)
    monkeypatch.delattr(type(net.text), "encode_names")
    assert torch.equal(net.segment(image, vocabulary, (64, 96), text=text), expected)
    assert losses(text=text) == by_itself


def test_the_loss_is_the_papers_unless_told_otherwise(net):
    image, label_maps = torch.rand(1, 3, 64, 96) * 255, torch.full((1, 64, 96), -1)
    label_maps[:, :, :48] = 0

    def losses(**config):
        torch.manual_seed(1)
        return net.losses(image, label_maps, Vocabulary(LABELS), **config)["mask"].item()

    assert losses() == losses(config=LossConfig()) != losses(config=LossConfig(unlabelled="ignored"))


def test_what_a_model_was_trained_on_is_not_replaced_from_outside(net):
    with pytest.raises(AttributeError):
        net.training_vocabulary = Vocabulary(["sky"])


def test_other_exponents_leave_a_model_as_it_is(net):
    exponents = BalanceConfig(alpha=0, beta=0, gamma=0)
    other = net.with_balance(exponents)
    assert other.config == TINY.model_copy(update={"balance": exponents}) and net.config == TINY
    assert other.mask_decoder is net.mask_decoder
    image = torch.rand(3, 64, 96) * 255
    scores = [one.segment(image, Vocabulary(LABELS), (64, 96)) for one in (net, other)]
    assert not torch.equal(*scores)


def test_a_backbone_is_named_by_what_is_in_it():
    torch.manual_seed(0)
    net = EBSeg(TINY)
    digest = net.backbone.digest
    assert copy.deepcopy(net).backbone.digest == digest and len(digest) == 32
    with torch.no_grad():
        net.text.background.add_(1)  # the head's
    assert net.backbone.digest == digest
    with torch.no_grad():
        net.text.tower.text_projection[0, 0] += 1
    assert net.backbone.digest != digest


def test_a_digest_is_worked_out_once(net, monkeypatch):
    first = net.backbone.digest, net.text.fingerprint()
    monkeypatch.setattr("ebseg.digest.hashlib", None)
    assert (net.to("cpu").backbone.digest, net.text.fingerprint()) == first


def test_backbone_and_head_are_all_of_a_model_and_share_nothing(net):
    names = {name for name, _ in net.named_parameters()}
    assert net.backbone.tensors.keys() | net.head.keys() == names
    assert not net.backbone.tensors.keys() & net.head.keys()
    assert all(parameter.requires_grad for parameter in net.head.values())
    assert not any(parameter.requires_grad for parameter in net.backbone.tensors.values())
    assert {"text.background", "clip.tower.positional_embedding", "sam.encoder.pos_embed"} <= net.head.keys()


def test_synonyms_are_averaged(net):
    names = net.text.encode_names(["car", "automobile"])
    text = net.class_embeddings(Vocabulary(LABELS))
    expected = torch.nn.functional.normalize(names.mean(dim=0), dim=-1)
    assert torch.allclose(text[2], expected, atol=1e-6)
    assert text.shape == (4, TINY.clip.embed_dim)


def test_text_does_not_depend_on_what_is_encoded_beside_it(net):
    """Texts are cut to the longest of a batch; that must not change the shorter ones."""
    alone = net.text.encode_names(["sky"])
    beside = net.text.encode_names(["sky", "a very long name of something that nobody has ever seen"])
    assert torch.allclose(alone[0], beside[0], atol=1e-6)


def test_a_label_is_seen_if_it_was_trained_on(net):
    vocabulary = Vocabulary(LABELS)
    assert net.seen(vocabulary) == (False, False, False)
    trained = EBSeg(TINY, training_vocabulary=Vocabulary(["roads", "automobile"]))
    assert trained.seen(vocabulary) == (False, True, True)
    trained.trained_on(Vocabulary(["sky"]))
    assert trained.seen(vocabulary) == (True, False, False)


def test_seen_labels_use_the_decoder_and_unseen_ones_do_not():
    config = BalanceConfig(alpha=0.1, beta=0.3, gamma=0.7)
    a = torch.zeros(1, 1, 3)
    a[..., 0] = 3.0  # the decoder is sure of label 0
    flat = torch.zeros(1, 1, 2)
    seen = balance(a, flat, flat, torch.tensor([True, True]), config).exp()
    unseen = balance(a, flat, flat, torch.tensor([False, False]), config).exp()
    assert seen[0, 0, 0] > seen[0, 0, 1]
    assert unseen[0, 0, 0] == pytest.approx(unseen[0, 0, 1].item(), abs=1e-6)


def test_balanced_probabilities_leave_the_background_its_share():
    torch.manual_seed(0)
    a, b, c = torch.randn(3, 1, 4, 6)
    config = BalanceConfig(alpha=0.1, beta=0.3, gamma=0.7)
    balanced = balance(a[None], b[None], c[None], torch.tensor([True] * 3 + [False] * 2), config).exp()
    assert torch.allclose(balanced[..., -1], a[None].softmax(dim=-1)[..., -1], atol=1e-6)
    assert torch.allclose(balanced.sum(dim=-1), torch.ones(1, 1, 4), atol=1e-5)


def test_dense_features_are_averaged_inside_the_mask():
    dense = torch.arange(8.0).reshape(1, 2, 2, 2)
    masks = torch.tensor([[[[5.0, 5.0], [-5.0, -5.0]], [[-5.0] * 2] * 2]])
    pooled = pool_dense_features(masks, dense)
    assert torch.allclose(pooled, torch.tensor([[[0.5, 4.5], [0.0, 0.0]]]))


def test_tiny_is_small():
    assert sum(p.numel() for p in EBSeg(VARIANTS["tiny"]).parameters()) <= 12_000_000


def test_the_same_photo_gives_the_same_scores(net):
    image = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 64, 64))).float()
    first = net.segment(image, Vocabulary(LABELS), (64, 64))
    assert torch.equal(first, net.segment(image, Vocabulary(LABELS), (64, 64)))


def _same_values_and_gradients(found, expected, inputs):
    """Compare in float64: rounding is out of the question."""
    assert torch.allclose(found, expected, rtol=1e-10, atol=1e-10)
    weights = torch.randn_like(expected)
    for ours, plain in zip(
        torch.autograd.grad(found, inputs, weights),
        torch.autograd.grad(expected, inputs, weights),
        strict=True,
    ):
        assert torch.allclose(ours, plain, rtol=1e-9, atol=1e-9)


def test_texts_that_share_beginnings_are_encoded_as_whole_ones():
    torch.manual_seed(0)
    text = TextClassifier(TINY.clip).double()
    begin = "There is a small "
    texts = [
        begin + "dog in the scene.", begin + "ish thing", begin.rstrip() + "er dog", begin,
        begin + "dog" * 200, "a photo of a dog.", "dog", "",
    ]  # fmt: skip
    beginnings = [begin] * 5 + ["a photo of a ", "", ""]
    tokens = text.tokens(texts)
    with torch.no_grad():
        expected = text.tower(tokens)  # OpenCLIP's own forward, all columns of all texts
        torch.testing.assert_close(text.encode_texts(texts, beginnings), expected)
        torch.testing.assert_close(text.encode_texts(texts), expected)
        torch.testing.assert_close(text.encode_texts(texts[3:4], [begin]), expected[3:4])


@pytest.mark.parametrize(
    ("shape", "grid"), [((16, 24), (2, 3)), ((15, 22), (4, 5)), ((7, 5), (7, 5)), ((3, 4), (5, 6))]
)
@pytest.mark.parametrize("ties", [False, True])
def test_largest_products_are_pooled_products(shape, grid, ties):
    torch.manual_seed(0)
    kernels = torch.randn(2, 6, 8, dtype=torch.float64)
    pixels = torch.randn(2, shape[0] * shape[1], 8, dtype=torch.float64)
    if ties:  # small whole numbers: many products are equal, and the first one has the gradient
        kernels, pixels = kernels.round(), pixels.round()
    inputs = (kernels.requires_grad_(), pixels.requires_grad_())
    products = (kernels @ pixels.transpose(1, 2)).unflatten(2, shape)
    expected = F.adaptive_max_pool2d(products, grid).flatten(2)
    _same_values_and_gradients(LargestProducts.apply(kernels, pixels, shape, grid), expected, inputs)


def test_largest_products_are_the_same_without_gradients():
    kernels, pixels = torch.randn(2, 6, 8), torch.randn(2, 12 * 20, 8)
    expected = LargestProducts.apply(kernels, pixels, (12, 20), (3, 10))
    torch.testing.assert_close(cell_maxima(kernels, pixels, (12, 20), (3, 10)), expected)


def test_the_pixel_decoder_trains_in_float32_and_answers_in_what_is_chosen(random_tiny):
    maps = [torch.randn(1, TINY.sam.width, side, side) for side in (8, 8, 4, 2)]
    with torch.autocast("cpu", torch.bfloat16):
        trained, _ = random_tiny.pixel_decoder(maps)
        with torch.no_grad():
            answered, _ = random_tiny.pixel_decoder(maps)
    assert (trained.dtype, answered.dtype) == (torch.float32, torch.bfloat16)


def test_sampled_rows_are_sampled_maps():
    torch.manual_seed(0)
    shapes, batch, heads, width = [(2, 3), (4, 6)], 2, TINY.decoder.heads, TINY.decoder.width
    length, points = sum(h * w for h, w in shapes), TINY.decoder.points
    attention = DeformableAttention(TINY.decoder, scales=len(shapes))
    sampling = Sampling(shapes, heads, points, torch.device("cpu"))
    values = torch.randn(batch, length, width, dtype=torch.float64, requires_grad=True)
    shares = torch.rand(batch, length, heads, len(shapes), points, dtype=torch.float64, requires_grad=True)
    pixels = torch.rand(*shares.shape, 2, dtype=torch.float64) * 10 - 3  # many of them outside, some far
    pixels.requires_grad_()
    expected = 0
    for scale, (part, (h, w)) in enumerate(
        zip(values.split([h * w for h, w in shapes], dim=1), shapes, strict=True)
    ):
        maps = part.transpose(1, 2).reshape(batch * heads, -1, h, w)
        at = pixels[:, :, :, scale].transpose(1, 2).flatten(0, 1)  # (B * H, N, P, 2)
        at = (at + 0.5) / torch.tensor([w, h]) * 2 - 1
        samples = F.grid_sample(maps, at, align_corners=False)  # (B * H, D / H, N, P)
        weighted = samples * shares[:, :, :, scale].transpose(1, 2).flatten(0, 1)[:, None]
        expected = expected + weighted.sum(dim=-1).unflatten(0, (batch, heads)).permute(0, 3, 1, 2)
    apart = torch.cat([axis.flatten(2) for axis in pixels.unbind(-1)], dim=-1)  # (B, N, 2 C), x before y
    found = attention._sampled(sampling.table(values), apart, shares.flatten(2), sampling)
    _same_values_and_gradients(found, expected.flatten(2), (values, pixels, shares))


def test_tokens_sample_around_their_own_places():
    shapes = [(2, 3), (4, 6)]
    sampling = Sampling(shapes, heads=2, points=1, device=torch.device("cpu"))
    x, y = sampling.centres.chunk(2, dim=1)  # of the samples: two scales, and again for the second head
    assert x.shape == (6 + 24, 4)
    torch.testing.assert_close(x[:3, 0], torch.tensor([0.0, 1.0, 2.0]))
    torch.testing.assert_close(x[6:12, 1], torch.arange(6.0))
    torch.testing.assert_close(y[6::6, 3], torch.arange(4.0))
    torch.testing.assert_close(x[1], torch.tensor([1.0, 2.5, 1.0, 2.5]))  # the middle of three, and of six


def test_samples_that_are_no_numbers_give_none():
    """A training that diverged ends by its own check of the loss, and not in a read of any memory."""
    attention = DeformableAttention(TINY.decoder, scales=1)
    sampling = Sampling([(2, 2)], TINY.decoder.heads, TINY.decoder.points, torch.device("cpu"))
    queries = torch.full((1, 4, TINY.decoder.width), torch.nan)
    assert attention(queries, torch.ones_like(queries), sampling).isnan().all()


@pytest.mark.parametrize("size", [(64, 64), (96, 160)])
def test_the_spatial_encoder_is_segment_anythings(size):
    torch.manual_seed(0)
    ours = SpatialEncoder(TINY.sam).double()
    for name, parameter in ours.named_parameters():
        if "rel_pos" in name:  # zero to begin with
            torch.nn.init.normal_(parameter)
    images = torch.randn(2, 3, *size, dtype=torch.float64)
    x = ours.encoder.patch_embed(images)
    x = x + ours.positions(*x.shape[1:3])
    for block in ours.encoder.blocks:
        x = block(x)
    expected = F.interpolate(x.permute(0, 3, 1, 2), scale_factor=0.25, mode="bilinear", align_corners=False)
    _same_values_and_gradients(ours(images)[-1], expected, (ours.encoder.pos_embed,))


def test_training_and_inference_predict_the_same(net):
    torch.manual_seed(0)
    mask_features = torch.randn(2, TINY.decoder.width, 16, 24)
    memories = [torch.randn(2, TINY.decoder.width, 2 * scale, 3 * scale) for scale in (1, 2, 4)]
    training = net.mask_decoder.predict_all(mask_features, memories, (4, 6))
    with torch.no_grad():
        plain = net.mask_decoder.predict_all(mask_features, memories, (4, 6))
        last = net.mask_decoder(mask_features, memories, (4, 6))
    assert len(training) == TINY.decoder.mask_layers + 1
    for found, expected in [*zip(training, plain, strict=True), (training[-1], last)]:
        for part in ("masks", "embeddings", "bias"):
            assert torch.allclose(getattr(found, part), getattr(expected, part), atol=1e-5)
