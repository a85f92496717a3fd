"""Paint the pictures of contact-sheet-inputs/: layered hills under a sky, from a seed each, so free to use.

Run it with Pillow installed: `python paint.py`.
"""

import math
import random
from pathlib import Path

from PIL import ExifTags, Image, ImageDraw, ImageFilter

HERE = Path(__file__).parent / "contact-sheet-inputs"
SCENES = {
    "dawn.jpg": (7, ("#2b2d5b", "#f7a072", "#fde7c3"), ("#54416b", "#3a2f58", "#1d1b3a"), (0.68, 0.52, "#fff3d1")),
    "dunes.jpg": (3, ("#6fb7d6", "#cfe8ef", "#fbf3dc"), ("#e7b873", "#d3964b", "#a9662f"), (0.22, 0.2, "#ffffff")),
    "forest.jpg": (11, ("#9fc5b5", "#d9ead3", "#f4f8ec"), ("#6a9a7b", "#3f6f54", "#1f4034"), (0.75, 0.3, "#fbfff2")),
    "night.png": (5, ("#050914", "#101b3b", "#27406f"), ("#16233f", "#0d162b", "#060b17"), (0.3, 0.22, "#f4f1da")),
}


def sky(size: tuple[int, int], colours: tuple[str, ...]) -> Image.Image:
    """Paint a gradient from top to bottom."""
    column = Image.new("RGB", (1, len(colours)))
    for row, colour in enumerate(colours):
        column.putpixel((0, row), tuple(bytes.fromhex(colour[1:])))
    return column.resize(size, Image.Resampling.BICUBIC)


def ridge(random_: random.Random, width: int, base: float, height: float) -> list[tuple[float, float]]:
    """Draw the line of a hill as a few waves."""
    waves = [(random_.uniform(0.8, 7), random_.uniform(0, 6.3), random_.uniform(0.2, 1)) for _ in range(5)]

    def rise(x: int) -> float:
        return sum(a / f * math.sin(f * 6.3 * x / width + p) for f, p, a in waves)

    return [(x, base - height * rise(x)) for x in range(width + 1)]


def paint(seed: int, heaven: tuple, hills: tuple, light: tuple, size: tuple[int, int]) -> Image.Image:
    """Paint one scene."""
    random_ = random.Random(seed)
    width, height = size
    picture = sky(size, heaven)
    glow = Image.new("L", size, 0)
    x, y, colour = light
    radius = height * 0.07
    disc = (x * width - radius, y * height - radius, x * width + radius, y * height + radius)
    ImageDraw.Draw(glow).ellipse(disc, fill=255)
    halo = glow.filter(ImageFilter.GaussianBlur(radius)).point(lambda level: level // 2)
    picture.paste(colour, mask=halo)
    picture.paste(colour, mask=glow.filter(ImageFilter.GaussianBlur(1)))
    draw = ImageDraw.Draw(picture)
    for index, hill in enumerate(hills):
        line = ridge(random_, width, height * (0.62 + 0.13 * index), height * 0.09)
        draw.polygon([(0, height), *line, (width, height)], fill=hill)
    return picture


def main() -> None:
    HERE.mkdir(exist_ok=True)
    for name, scene in SCENES.items():
        picture = paint(*scene, size=(900, 600))
        if name.endswith(".png"):
            picture.quantize(64).save(HERE / name, optimize=True)
        else:
            exif = Image.Exif()
            exif[ExifTags.Base.DateTime] = f"2026:0{scene[0] % 9 + 1}:14 06:30:00"
            picture.save(HERE / name, quality=80, exif=exif)
    with Image.open(HERE / "dawn.jpg") as dawn:
        dawn.resize((450, 300)).save(HERE / "dawn-small.jpg", quality=60)
    sideways = paint(2, *SCENES["forest.jpg"][1:], size=(500, 750)).transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    sideways.save(HERE / "held-upright.jpg", quality=80, exif=exif)


if __name__ == "__main__":
    main()
