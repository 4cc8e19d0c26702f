"""Take samples of a corrected photo's pixels.

N pixels, D width of the pixel decoder's features, K labels; H x W: the photo's own size.
"""

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from ebseg.memory import STRIDE, surroundings
from ebseg.predictor import EncodedPhoto, Predictor
from ebseg.vocabulary import Vocabulary
from training.memory.samples import PIXELS, Samples

Features = npt.NDArray[np.float16]


def sample(
    predictor: Predictor, photo: EncodedPhoto, label_map: npt.NDArray[np.int16], vocabulary: Vocabulary
) -> Samples:
    """Take up to ``PIXELS`` pixels of each label of a photo, by lot.

    (As many of each connected part is worse by 2 to 4 points of mIoU on CamVid: small parts are all edge.)

    ``label_map``: (H, W), index into the vocabulary, -1 where unlabelled. The same photo and label map give
    the same samples.
    """
    places, labels, areas = _chosen(label_map)
    order = np.argsort(places % label_map.shape[1], kind="stable")
    places, labels, areas = places[order], labels[order], areas[order]
    features, text = _read(predictor, photo, places, vocabulary)
    return Samples(features, labels, areas, text)


def _chosen(
    label_map: npt.NDArray[np.int16],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int16], npt.NDArray[np.float32]]:
    """Choose pixels: their places in the flattened map, their labels, and the area each stands for."""
    rng = np.random.default_rng(0)
    places: list[npt.NDArray[np.int64]] = [np.empty(0, np.int64)]
    labels, areas = [np.empty(0, np.int16)], [np.empty(0, np.float32)]
    for label in np.unique(label_map[label_map >= 0]):
        there = np.flatnonzero(label_map == label)
        taken = rng.choice(there, min(PIXELS, len(there)), replace=False)
        places.append(taken)
        labels.append(np.full(len(taken), label, np.int16))
        areas.append(np.full(len(taken), len(there) / label_map.size / len(taken), np.float32))
    return np.concatenate(places), np.concatenate(labels), np.concatenate(areas)


@torch.inference_mode()
def _read(
    predictor: Predictor, photo: EncodedPhoto, places: npt.NDArray[np.int64], vocabulary: Vocabulary
) -> tuple[Features, npt.NDArray[np.float16]]:
    """Read what the model says of some pixels of a photo: features (N, 2 D) and the text's scores (N, K)."""
    encoded, (height, width) = photo.encoded, photo.size
    own = encoded.features[0].float()
    test_height, test_width = encoded.sizes[0]
    rows, columns = (torch.from_numpy(each).to(own.device) for each in np.divmod(places, width))
    y = (rows + 0.5) * (test_height / height / STRIDE)  # from the edge, in places of the grid
    x = (columns + 0.5) * (test_width / width / STRIDE)
    features = _at(torch.cat([own, surroundings(own)]), y, x)
    classes = predictor.net.classify(encoded, vocabulary, text=predictor.texts(vocabulary))[0]  # (Q, K)
    text = _at(encoded.masks[0], y, x).sigmoid() @ classes
    return features.half().cpu().numpy(), text.half().cpu().numpy()


def _at(maps: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Interpolate maps (C, h, w) at N places, counted from the edge: (N, C)."""
    height, width = maps.shape[1:]
    grid = torch.stack([2 * x / width - 1, 2 * y / height - 1], dim=-1).to(maps.dtype)[None, None]
    found = F.grid_sample(maps[None], grid, mode="bilinear", padding_mode="border", align_corners=False)
    return found[0, :, 0].T
