"""Focal loss with class weights.

Lin et al. 2017, "Focal Loss for Dense Object Detection", doi 10.1109/ICCV.2017.324, for five classes.
"""

from __future__ import annotations

import torch
from torch import Tensor


def focal_losses(logits: Tensor, grades: Tensor, *, alpha: float, gamma: float, weights: Tensor) -> Tensor:
    """Loss of each image (n,) from logits (n, 5) and reference grades (n,): alpha w (1 - p)^gamma (-log p).

    p is the probability that the model gives to the reference grade, and w that grade's weight. The weight multiplies
    the loss only; it does not enter p, which it would distort. Divide the sum by the number of images.
    """
    log_p = torch.log_softmax(logits.float(), dim=-1).gather(1, grades[:, None])[:, 0]
    # 1 - p without cancellation; the floor keeps the gradient finite at p = 1 for gamma below 1
    miss = (-torch.expm1(log_p)).clamp_min(1e-6)
    return -alpha * weights[grades] * miss.pow(gamma) * log_p
