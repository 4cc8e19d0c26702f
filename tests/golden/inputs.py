"""Deterministic photos and label maps behind the golden numbers."""

import numpy as np
import torch


def image(H, W, seed):
    """float32 tensor (3,H,W) RGB in [0,255]: smooth sinusoids + seeded Gaussian noise (numpy PCG64), clipped.
    yy,xx = row, column index (float64);  for channel c in 0,1,2:
      127.5 + 60*sin(2*pi*(c+1)*xx/W + 0.7*c) + 45*cos(2*pi*(2*c+1)*yy/H - 0.4*c) + 15*N(0,1)
    noise = np.random.default_rng(seed).standard_normal((3,H,W));  clip to [0,255];  cast float32."""
    yy, xx = np.mgrid[0:H, 0:W].astype(np.float64)
    n = np.random.default_rng(seed).standard_normal((3, H, W))
    im = (
        np.stack(
            [
                127.5
                + 60 * np.sin(2 * np.pi * (c + 1) * xx / W + 0.7 * c)
                + 45 * np.cos(2 * np.pi * (2 * c + 1) * yy / H - 0.4 * c)
                for c in range(3)
            ]
        )
        + 15 * n
    )
    return torch.from_numpy(np.clip(im, 0, 255).astype(np.float32))


def image_u8(H, W, seed):
    """uint8 HWC RGB = floor(image()) -- for the PIL-resize pipeline."""
    return image(H, W, seed).numpy().astype(np.uint8).transpose(1, 2, 0).copy()


def label_map(H, W, seed, block=80, num_classes=171, n_used=9, ignore=255):
    """blocky int64 label map: r=np.random.default_rng(seed); palette=r.choice(num_classes,n_used,replace=False);
    grid=r.integers(0,n_used+1,(ceil(H/block),ceil(W/block))); grid value n_used -> ignore, else palette[value];
    nearest-upsampled by np.kron with ones((block,block)) and cropped."""
    r = np.random.default_rng(seed)
    pal = np.append(r.choice(num_classes, n_used, replace=False), ignore)
    g = r.integers(0, n_used + 1, (-(-H // block), -(-W // block)))
    return np.kron(pal[g], np.ones((block, block), dtype=np.int64))[:H, :W].astype(np.int64)
