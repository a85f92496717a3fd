"""Turn a folder of pictures into a contact sheet, thumbnails, palettes and a report.

An InfraX app: pictures come in input/, what it makes goes to output/, and arguments arrive both as a JSON object on
standard input and as --key value pairs. It takes them from either, so that it runs on any InfraX node, and by hand.
"""

import argparse
import csv
import json
import sys
from pathlib import Path

from PIL import ExifTags, Image, ImageDraw, ImageFont, ImageOps

INPUT, OUTPUT = Path("input"), Path("output")
DEFAULTS = {"title": "Contact sheet", "columns": 3, "size": 240, "colours": 5}
MARGIN, STRIP, CAPTION, HEAD = 16, 18, 42, 64
PAPER, INK, FADED = "#f7f5f0", "#22262b", "#7b8088"


def arguments() -> dict:
    """Read the arguments from the command line and from standard input."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--title", help="what stands on top of the sheet")
    parser.add_argument("--columns", type=int, help="pictures in a row")
    parser.add_argument("--size", type=int, help="longest edge of a thumbnail, in pixels")
    parser.add_argument("--colours", type=int, help="colours in a palette")
    given = {key: value for key, value in vars(parser.parse_args()).items() if value is not None}
    document = "" if sys.stdin is None or sys.stdin.isatty() else sys.stdin.read()
    given |= json.loads(document or "{}")
    options = {key: type(default)(given.get(key, default)) for key, default in DEFAULTS.items()}
    for key, low, high in (("columns", 1, 12), ("size", 32, 1024), ("colours", 2, 16)):
        if not low <= options[key] <= high:
            parser.error(f"--{key} must be from {low} to {high}")
    return options


def upright(path: Path) -> tuple[Image.Image, dict]:
    """Open a picture as its photographer saw it, on white where it is transparent, with what its file says of it."""
    with Image.open(path) as file:
        facts = {"format": file.format, "taken": file.getexif().get(ExifTags.Base.DateTime)}
        picture = ImageOps.exif_transpose(file).convert("RGBA")
    paper = Image.new("RGBA", picture.size, "white")
    paper.alpha_composite(picture)
    return paper.convert("RGB"), facts


def palette(picture: Image.Image, colours: int) -> list[str]:
    """Find the colours that a picture is made of, the most frequent first."""
    small = ImageOps.contain(picture, (128, 128)).quantize(colours, method=Image.Quantize.MEDIANCUT)
    table = small.getpalette()
    ranked = sorted(small.getcolors(), reverse=True)
    return ["#" + bytes(table[3 * index : 3 * index + 3]).hex() for _, index in ranked]


def fingerprint(picture: Image.Image) -> int:
    """Sum up a picture in 64 bits that stay nearly the same when it is scaled or compressed."""
    row = 9
    grey = picture.convert("L").resize((row, 8), Image.Resampling.LANCZOS).tobytes()
    pairs = ((grey[i], grey[i + 1]) for i in range(len(grey)) if i % row != row - 1)
    return sum(1 << bit for bit, (left, right) in enumerate(pairs) if left > right)


def look(path: Path, number: int, options: dict) -> tuple[dict, Image.Image]:
    """Write a picture's thumbnail and palette, and say what is to be known of it."""
    picture, facts = upright(path)
    colours = palette(picture, options["colours"])
    thumbnail = ImageOps.contain(picture, (options["size"], options["size"]), Image.Resampling.LANCZOS)
    name = f"{number:02}-{path.stem}"
    thumbnail.save(OUTPUT / "thumbnails" / f"{name}.jpg", quality=85)
    swatches(colours).save(OUTPUT / "palettes" / f"{name}.png")
    record = {
        "file": path.relative_to(INPUT).as_posix(),
        "width": picture.width,
        "height": picture.height,
        "bytes": path.stat().st_size,
        **facts,
        "brightness": round(sum(picture.convert("L").resize((16, 16)).tobytes()) / 256 / 255, 3),
        "colours": colours,
        "fingerprint": f"{fingerprint(picture):016x}",
    }
    return record, thumbnail


def swatches(colours: list[str]) -> Image.Image:
    """Draw a palette with the names of its colours."""
    side = 96
    strip = Image.new("RGB", (side * len(colours), side + 24), PAPER)
    draw = ImageDraw.Draw(strip)
    for column, colour in enumerate(colours):
        draw.rectangle((column * side, 0, (column + 1) * side - 1, side), fill=colour)
        draw.text(((column + 0.5) * side, side + 12), colour, INK, ImageFont.load_default(13), anchor="mm")
    return strip


def sheet(records: list[dict], thumbnails: list[Image.Image], options: dict) -> Image.Image:
    """Lay the thumbnails out in a grid, each with its palette, name and size."""
    columns, size = min(options["columns"], len(records)), options["size"]
    width, height = size + MARGIN, size + STRIP + CAPTION + MARGIN
    rows = -(-len(records) // columns)
    page = Image.new("RGB", (columns * width + MARGIN, HEAD + rows * height + MARGIN), PAPER)
    draw = ImageDraw.Draw(page)
    draw.text((MARGIN, HEAD // 2), options["title"], INK, ImageFont.load_default(26), anchor="lm")
    for place, (record, thumbnail) in enumerate(zip(records, thumbnails, strict=True)):
        left, top = MARGIN + place % columns * width, HEAD + place // columns * height
        page.paste(thumbnail, (left + (size - thumbnail.width) // 2, top + (size - thumbnail.height) // 2))
        part = size / len(record["colours"])
        for index, colour in enumerate(record["colours"]):
            box = (left + index * part, top + size + 4, left + (index + 1) * part - 1, top + size + STRIP)
            draw.rectangle(box, fill=colour)
        caption(draw, (left, top + size + STRIP + 6), size, record)
    return page


def caption(draw: ImageDraw.ImageDraw, place: tuple, width: int, record: dict) -> None:
    """Write a picture's name, shortened to the width there is, and its size."""
    font, name = ImageFont.load_default(15), record["file"]
    while draw.textlength(name, font) > width:
        name = name.removesuffix("...")[:-1] + "..."
    draw.text(place, name, INK, font)
    text = f"{record['width']} x {record['height']}   {record['bytes'] / 1024:.0f} KB"
    draw.text((place[0], place[1] + 19), text, FADED, ImageFont.load_default(12))


def look_alikes(records: list[dict]) -> list[list[str]]:
    """Group the pictures whose fingerprints differ in few bits: copies, scaled or saved again."""
    groups: list[list[dict]] = []
    for record in records:
        bits = int(record["fingerprint"], 16)
        near = (group for group in groups if (bits ^ int(group[0]["fingerprint"], 16)).bit_count() <= 5)
        group = next(near, None)
        if group is None:
            groups.append([record])
        else:
            group.append(record)
    return [[record["file"] for record in group] for group in groups if len(group) > 1]


def report(records: list[dict], skipped: list[str], title: str) -> list[list[str]]:
    """Write what was found as JSON and as CSV."""
    alike = look_alikes(records)
    document = {"title": title, "pictures": records, "look_alikes": alike, "skipped": skipped}
    (OUTPUT / "report" / "pictures.json").write_text(json.dumps(document, indent=2) + "\n")
    with (OUTPUT / "report" / "pictures.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(records[0]))
        writer.writeheader()
        writer.writerows({**record, "colours": " ".join(record["colours"])} for record in records)
    return alike


def main() -> None:
    options = arguments()
    for name in ("thumbnails", "palettes", "report"):
        (OUTPUT / name).mkdir(parents=True, exist_ok=True)
    paths = sorted(path for path in INPUT.rglob("*") if path.is_file())
    records, thumbnails, skipped = [], [], []
    for number, path in enumerate(paths, start=1):
        try:
            record, thumbnail = look(path, number, options)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            print(f"[{number}/{len(paths)}] {path.name}: skipped, no picture ({error})")
            skipped.append(path.relative_to(INPUT).as_posix())
            continue
        print(f"[{number}/{len(paths)}] {record['file']}: {record['width']} x {record['height']} {record['format']}")
        records.append(record)
        thumbnails.append(thumbnail)
    if not records:
        sys.exit("There are no pictures in input/: give some JPEG, PNG, GIF, TIFF or WebP files.")
    sheet(records, thumbnails, options).save(OUTPUT / "contact-sheet.jpg", quality=88)
    for group in report(records, skipped, options["title"]):
        print(f"look alike: {', '.join(group)}")
    print(f"{len(records)} pictures on output/contact-sheet.jpg, {len(skipped)} files skipped")


if __name__ == "__main__":
    main()
