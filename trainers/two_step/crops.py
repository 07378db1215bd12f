"""Small crops around places, and the networks that say what lies in their middle."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmb_plugin.networks import UNet, build_encoder
from cmb_plugin.planning import Architecture


def cut_crops(images: Tensor, places: Tensor, size: Sequence[int]) -> Tensor:
    """Crops whose voxel ``size // 2`` is each place; 0 beyond the images.

    Args:
        images: [B, C, Z, Y, X].
        places: int64 [N, 4] ``(image, z, y, x)`` inside the images.
        size: of a crop, z, y, x.

    Returns:
        [N, C, *size].
    """
    if not len(places):
        return images.new_zeros(0, images.shape[1], *size)
    before = [side // 2 for side in size]
    padding = [pad for side, half in zip(size[::-1], before[::-1], strict=True) for pad in (half, side - half)]
    padded = F.pad(images, padding)
    crops = []
    for image, *start in places.tolist():
        z, y, x = (slice(first, first + side) for first, side in zip(start, size, strict=True))
        crops.append(padded[image, :, z, y, x])
    return torch.stack(crops)


class ClassHead(nn.Module):
    """Class of what lies in the middle of a crop: from the middles of all maps of an encoder, and from mean and maximum
    of the coarsest.

    Mean and maximum alone do not know where in the crop a thing lies: a vessel would be called a microbleed because
    there is one 8 mm away.

    Args:
        channels: of the encoder's maps, the finest first.
        classes: classes of a crop.
    """

    def __init__(self, channels: Sequence[int], classes: int) -> None:
        super().__init__()
        width = channels[-1]
        self.layers = nn.Sequential(nn.Linear(sum(channels) + 2 * width, width), nn.ReLU(), nn.Linear(width, classes))

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps [N, C, z, y, x], each with at least two voxels along every axis -> [N, classes] float32."""
        coarsest = maps[-1].flatten(2)
        seen = [*(middle(features) for features in maps), coarsest.mean(dim=2), coarsest.amax(dim=2)]
        scores: Tensor = self.layers(torch.cat(seen, dim=1))
        return scores.float()


def middle(features: Tensor) -> Tensor:
    """[N, C, Z, Y, X] -> [N, C], the mean of the two middle voxels along each axis, at whose common corner the place of
    a crop lies (``cut_crops``)."""
    z, y, x = (slice(side // 2 - 1, side // 2 + 1) for side in features.shape[2:])
    return features[:, :, z, y, x].mean(dim=(2, 3, 4))


class CropTeacher(nn.Module):
    """A U-Net with a class head on its encoder (the teacher of Sundaresan et al. 2023).

    Args:
        in_channels: channels of the crops.
        classes: classes of a crop, the background included; its voxels have two, background and lesion.
        architecture: shape of the network.
    """

    def __init__(self, in_channels: int, classes: int, architecture: Architecture) -> None:
        super().__init__()
        self.unet = UNet(in_channels, 2, architecture)
        self.head = ClassHead(architecture.features, classes)

    def forward(self, crops: Tensor) -> tuple[list[Tensor], Tensor]:
        """[N, C, Z, Y, X] -> voxel logits [N, 2, z, y, x] of the decoder's stages, as ``UNet`` gives them, and class
        logits [N, classes]."""
        maps = self.unet.encoder(crops)
        return self.unet.decode(maps), self.head(maps)


class CropStudent(nn.Module):
    """The teacher's encoder and class head alone (the student of Sundaresan et al. 2023)."""

    def __init__(self, in_channels: int, classes: int, architecture: Architecture) -> None:
        super().__init__()
        self.encoder = build_encoder(in_channels, architecture)
        self.head = ClassHead(architecture.features, classes)

    def forward(self, crops: Tensor) -> Tensor:
        """[N, C, Z, Y, X] -> class logits [N, classes]."""
        scores: Tensor = self.head(self.encoder(crops))
        return scores
