"""The operations of torchvision's policies written with Pillow, and their magnitudes."""

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

BINS = 31
ENHANCERS = {
    "brightness": ImageEnhance.Brightness,
    "color": ImageEnhance.Color,
    "contrast": ImageEnhance.Contrast,
    "sharpness": ImageEnhance.Sharpness,
}
SIGNED = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate", *ENHANCERS)


def with_pillow(name, magnitude, image):
    """One operation of torchvision's policies, written with Pillow."""
    picture = Image.fromarray(image)

    def move(*matrix):
        return picture.transform(picture.size, Image.Transform.AFFINE, matrix)

    match name:
        case "identity":
            result = picture
        case "shear_x":
            result = move(1, magnitude, 0, 0, 1, 0)
        case "shear_y":
            result = move(1, 0, 0, magnitude, 1, 0)
        case "translate_x":
            result = move(1, 0, -int(magnitude), 0, 1, 0)
        case "translate_y":
            result = move(1, 0, 0, 0, 1, -int(magnitude))
        case "rotate":
            result = picture.rotate(magnitude)
        case "posterize":
            result = ImageOps.posterize(picture, int(magnitude))
        case "solarize":
            result = ImageOps.solarize(picture, magnitude)
        case "autocontrast":
            result = ImageOps.autocontrast(picture)
        case "equalize":
            result = ImageOps.equalize(picture)
        case _:
            result = ENHANCERS[name](picture).enhance(1 + magnitude)
    return np.asarray(result)


def trivial_space():
    """Operation -> magnitudes, as listed in torchvision's TrivialAugmentWide."""
    space = {name: np.linspace(0, 0.99, BINS) for name in ("shear_x", "shear_y", *ENHANCERS)}
    space |= {name: np.linspace(0, 32, BINS) for name in ("translate_x", "translate_y")}
    space |= {"rotate": np.linspace(0, 135, BINS), "solarize": np.linspace(255, 0, BINS)}
    space["posterize"] = 8 - np.round(np.arange(BINS) / ((BINS - 1) / 6))
    return space | {name: np.zeros(1) for name in ("identity", "autocontrast", "equalize")}


def rand_space(height, width):
    """The same for torchvision's RandAugment."""
    space = {name: np.linspace(0, 0.3, BINS) for name in ("shear_x", "shear_y")}
    space |= {name: np.linspace(0, 0.9, BINS) for name in ENHANCERS}
    space["translate_x"] = np.linspace(0, 150 / 331 * width, BINS)
    space["translate_y"] = np.linspace(0, 150 / 331 * height, BINS)
    space |= {"rotate": np.linspace(0, 30, BINS), "solarize": np.linspace(255, 0, BINS)}
    space["posterize"] = 8 - np.round(np.arange(BINS) / ((BINS - 1) / 4))
    return space | {name: np.zeros(BINS) for name in ("identity", "autocontrast", "equalize")}


def signed(name, magnitudes):
    return np.concatenate([magnitudes, -magnitudes]) if name in SIGNED else magnitudes
