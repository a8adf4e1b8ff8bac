"""Pure functions that change colours and tones of a batch, with a parameter of its own for every image.

Shapes   images uint8 (B, 3, H, W), red, green, blue -> a new tensor of the same shape and dtype; parameters are (B,) tensors on
         the images' device, float32 unless said otherwise. Levels are 0 to 255.
Exact    `brightness`, `contrast`, `saturation`, `sharpness`, `posterize`, `solarize`, `autocontrast`, `equalize`, `invert` and
         `grayscale` give the bytes that Pillow (ImageEnhance, ImageOps) gives for each image alone, on the CPU.
Near     `adjust_hue` and `gaussian_blur` follow torchvision's formulas for tensors and differ from them by 1 level at most: the
         result is rounded to the nearest level.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def brightness(images: Tensor, factor: Tensor) -> Tensor:
    """Mix with black: factor 0 is black, 1 the image, above 1 brighter."""
    return _mixed(torch.zeros((), device=images.device), images, factor)


def contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Mix with the mean of the image's grey levels: factor 0 is one flat grey, 1 the image."""
    grey = _grey(images)
    count = grey[0].numel()
    mean = (2 * grey.sum((1, 2, 3)) + count) // (2 * count)  # rounded in whole numbers, half up
    return _mixed(_per_image(mean).float(), images, factor)


def saturation(images: Tensor, factor: Tensor) -> Tensor:
    """Mix with the image in grey: factor 0 is grey, 1 the image, above 1 more colourful."""
    return _mixed(_grey(images).float(), images, factor)


def sharpness(images: Tensor, factor: Tensor) -> Tensor:
    """Mix with a smoothed image (each pixel counts 5, its 8 neighbours 1; the border is kept): factor 0 is smooth, 2 sharp."""
    levels = images.float()
    planes = levels.reshape(1, -1, *images.shape[2:])  # every plane is a group of one convolution
    kernel = torch.ones(planes.shape[1], 1, 3, 3, device=images.device)
    kernel[:, :, 1, 1] = 5
    inside = F.conv2d(planes, kernel, groups=len(kernel)).div_(13).add_(0.5).floor_()
    smooth = levels.clone()
    smooth[:, :, 1:-1, 1:-1] = inside.view(*images.shape[:2], *inside.shape[2:])
    return _mixed(smooth, images, factor)


def posterize(images: Tensor, bits: Tensor) -> Tensor:
    """Keep the `bits` highest bits of every level. `bits`: int64 in [0, 8]; 8 keeps the image, 0 is black."""
    return images & _per_image((0xFF00 >> bits) & 0xFF).to(torch.uint8)


def solarize(images: Tensor, threshold: Tensor) -> Tensor:
    """Invert the levels at or above `threshold` (integer or float): 0 inverts all, 256 none."""
    # 255 - x is x with all bits turned, and `where` on bytes is slow.
    return images ^ ((images >= _per_image(threshold)).to(torch.uint8) * 255)


def autocontrast(images: Tensor) -> Tensor:
    """Stretch each channel so that its darkest level is 0 and its brightest 255; a channel of one level is kept."""
    # The fraction is cut off, so that the last bit counts: float64 as in Pillow, and no 255 / x, which torch makes of 1 / x.
    planes = images.contiguous().flatten(2)
    low = planes.amin(2).double()[..., None, None]
    reach = planes.amax(2).double()[..., None, None] - low
    flat = reach == 0
    scale = torch.where(flat, 1.0, torch.full_like(reach, 255) / reach)
    shift = torch.where(flat, 0.0, -low * scale)
    return images.double().mul_(scale).add_(shift).clamp_(0, 255).to(torch.uint8)


def equalize(images: Tensor) -> Tensor:
    """Give each channel a histogram as even as can be; with fewer than 255 pixels below its brightest level it is kept."""
    levels = images.flatten(0, 1).flatten(1)  # (planes, pixels)
    planes, pixels = levels.shape
    starts = torch.arange(0, 256 * planes, 256, device=images.device)[:, None]
    index = (levels.long() + starts).flatten()
    # All histograms in one sum: `bincount` would make a GPU wait.
    counts = torch.zeros(256 * planes, dtype=torch.int32, device=images.device)
    counts.scatter_add_(0, index, torch.ones((), dtype=torch.int32, device=images.device).expand(len(index)))
    counts = counts.view(planes, 256)
    brightest = counts.gather(1, levels.amax(1, keepdim=True).long())
    step = (pixels - brightest) // 255
    darker = counts.cumsum(1, dtype=torch.int32) - counts
    table = ((step // 2 + darker) // step.clamp(min=1)).clamp(max=255)
    same = torch.arange(256, dtype=torch.int32, device=images.device)
    table = torch.where(step > 0, table, same).to(torch.uint8)
    return table.flatten().index_select(0, index).view(images.shape)


def invert(images: Tensor) -> Tensor:
    """255 minus every level."""
    return images ^ 255


def grayscale(images: Tensor) -> Tensor:
    """The grey level 0.299 red + 0.587 green + 0.114 blue, rounded, in all three channels."""
    return torch.empty_like(images).copy_(_grey(images))


def adjust_hue(images: Tensor, shift: Tensor) -> Tensor:
    """Turn the hue by `shift`, in full circles, [-0.5, 0.5]; saturation and value (of HSV) stay."""
    hue, chroma, value = hue_chroma_value(images)
    return from_hue_chroma_value(hue + 6 * shift[:, None, None], chroma, value)


def hue_chroma_value(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Three float32 (B, H, W): hue in sixths of the circle, [-1, 5], red is 0, green 2, blue 4, and 0 for grey; value, the largest
    of the three levels; chroma, the largest less the smallest (saturation is chroma / value)."""
    red, green, blue = levels = images.float().unbind(1)
    value = torch.maximum(torch.maximum(red, green), blue)
    chroma = value - torch.minimum(torch.minimum(red, green), blue)
    per_level = chroma.clamp(min=1).reciprocal()
    hue = torch.where(levels[1] == value, (blue - red) * per_level + 2, (red - green) * per_level + 4)
    return torch.where(red == value, (green - blue) * per_level, hue), chroma, value


def from_hue_chroma_value(hue: Tensor, chroma: Tensor, value: Tensor) -> Tensor:
    """The inverse of `hue_chroma_value`, rounded to the nearest level; any hue, counted round the circle."""
    hue = hue - 6 * (hue / 6).floor()
    # How much of the chroma each channel lacks, [0, 1]: none within one sixth of its own hue, all beyond two.
    lacks = (2 - (hue - 3).abs(), (hue - 2).abs() - 1, (hue - 4).abs() - 1)
    return torch.stack([(value - chroma * lack.clamp_(0, 1)).add_(0.5).to(torch.uint8) for lack in lacks], 1)


def gaussian_blur(images: Tensor, sigma: Tensor, kernel_size: int) -> Tensor:
    """Blur with a Gaussian of `sigma` px, cut to `kernel_size` px (odd) and summing to 1; the image is mirrored at its border,
    so that `kernel_size // 2` has to be less than its sides."""
    count, channels, height, width = images.shape
    half = kernel_size // 2
    offsets = torch.arange(-half, half + 1, device=images.device)
    weights = torch.softmax(-0.5 * (offsets / sigma[:, None]) ** 2, 1)  # (B, kernel_size)
    # Every plane is a group of one convolution: along the rows, then along the columns.
    planes = count * channels
    kernels = weights[:, None].expand(count, channels, kernel_size).reshape(planes, 1, 1, kernel_size)
    blurred = F.pad(images.float().reshape(1, planes, height, width), (half,) * 4, mode="reflect")
    blurred = F.conv2d(blurred, kernels, groups=planes)
    blurred = F.conv2d(blurred, kernels.transpose(2, 3), groups=planes)
    return blurred.add_(0.5).clamp_(0, 255).to(torch.uint8).view(images.shape)


def _per_image(parameter: Tensor) -> Tensor:
    return parameter[:, None, None, None]


def _grey(images: Tensor) -> Tensor:
    """uint8 (B, 1, H, W): the grey levels of ITU-R 601-2 in 16-bit fixed point, as in Pillow's mode L."""
    red, green, blue = images.int().split(1, 1)
    return ((red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16).to(torch.uint8)


def _mixed(base: Tensor, images: Tensor, factor: Tensor) -> Tensor:
    """base + factor * (images - base), cut to [0, 255], its fraction cut off: Pillow's blend."""
    return images.float().sub_(base).mul_(_per_image(factor)).add_(base).clamp_(0, 255).to(torch.uint8)
