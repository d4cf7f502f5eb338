"""Pictures are converted to the form of training images; damaged files are refused; memory is bounded."""

import contextlib
import io
import os
import struct
import sys
import zlib

import numpy as np
import pytest

from fastmlp.datasets import images

pytest.importorskip("PIL")
from PIL import Image

BACK = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # for each orientation, the Pillow transposition that it undoes


@pytest.fixture
def page():
    """Return a page (240, 300), dark on light, with a shape like a 7."""
    page = np.full((240, 300), 230, np.uint8)
    page[40:60, 90:170] = 20
    for i in range(120):
        page[60 + i, 150 - i // 2 : 170 - i // 2] = 20
    return page


@pytest.fixture
def seven(page, tmp_path):
    """Return the result for the unchanged page."""
    return made(tmp_path / "plain.png", Image.fromarray(page))[0]


def made(path, image, frame=images.MNIST, **options):
    image.save(path, **options)
    pixels, (sentence,), _ = images.read([path], frame)
    assert pixels.shape == (1, frame.side, frame.side)
    assert pixels.dtype == np.uint8
    return pixels[0], sentence


def centre(pixels):
    """Return the centre of mass by its definition."""
    where = np.indices(pixels.shape) + 0.5
    return (where * pixels).sum(axis=(1, 2)) / pixels.sum()


def extents(pixels):
    return [int(np.ptp(np.flatnonzero(pixels.any(axis=axis)))) + 1 for axis in (1, 0)]


def test_mnist_is_framed_as_its_constant_says(mnist_data):
    assert images.framing(mnist_data[0][0]) == images.MNIST
    assert images.framing(mnist_data[1][0]) == images.MNIST


def test_framing_tells_centring_by_mass_from_centring_by_outline(rng):
    by_outline, by_mass = np.zeros((2, 40, 16, 16))
    for i in range(40):
        thing = np.zeros((8, 8))
        thing[0, :] = thing[7, :] = 0.1
        thing[rng.integers(1, 7), :] = 5
        by_outline[i, 4:12, 4:12] = thing
        at = round(8 - centre(thing)[0])
        by_mass[i, at : at + 8, 4:12] = thing
    assert images.framing(by_outline) == images.Framing(16, 8, False, 8.0)
    assert images.framing(by_mass) == images.Framing(16, 8, True, 8.0)
    assert images.framing(np.zeros((3, 9, 9))) == images.Framing(9, 9, False, 4.5)
    with pytest.raises(ValueError, match=r"images: got shape \(1, 4, 5\), expected square images"):
        images.framing(np.ones((1, 4, 5)))


def test_an_image_of_the_right_size_is_taken_as_it_is(tmp_path, mnist_data):
    digit = mnist_data[1][0][0]
    pixels, sentence = made(tmp_path / "a.png", Image.fromarray(digit))
    np.testing.assert_array_equal(pixels, digit)
    assert sentence == "28x28, used unchanged"
    pixels, sentence = made(tmp_path / "a.png", Image.fromarray(255 - digit))
    np.testing.assert_array_equal(pixels, digit)
    assert sentence == "28x28, light border: inverted"


@pytest.mark.parametrize("frame", [images.MNIST, images.Framing(8, 8, False, 4.0), images.Framing(33, 25, False, 16.5)])
def test_ink_is_cropped_resized_and_centred(tmp_path, page, frame):
    pixels, sentence = made(tmp_path / "a.png", Image.fromarray(page), frame)
    assert max(extents(pixels)) == frame.box
    assert pixels.max() == 255
    middle = centre(pixels) if frame.by_mass else np.array([frame.middle] * 2)
    assert np.abs(middle - frame.middle).max() <= 0.5
    assert sentence.startswith("300x240, dark on light: inverted, cropped to 80x140, resized to ")
    assert sentence.endswith(f"in {frame.side}x{frame.side}")


def test_pictures_of_mnist_digits_look_like_them_again(tmp_path, mnist_data):
    likeness = []
    for i, digit in enumerate(mnist_data[1][0][:20]):
        large = Image.fromarray(255 - digit).resize((336, 336), Image.Resampling.BICUBIC)
        sheet = Image.new("L", (700, 500), 255)
        sheet.paste(large, (7 * i, 150 - 7 * i))
        pixels, _ = made(tmp_path / f"{i}.jpg", sheet)
        likeness.append(np.corrcoef(pixels.ravel(), digit.ravel())[0, 1])
    assert np.mean(likeness) > 0.95  # lower if the images are half a pixel off


def test_polarity_and_contrast_make_no_difference(tmp_path, page, seven):
    np.testing.assert_array_equal(made(tmp_path / "a.png", Image.fromarray(255 - page))[0], seven)
    faint = Image.fromarray((100 + (page > 100) * 30).astype(np.uint8))
    np.testing.assert_array_equal(made(tmp_path / "a.png", faint)[0], seven)


def test_noise_and_large_photographs_make_little(tmp_path, page, seven, rng):
    noisy = np.clip(page + rng.normal(0, 8, page.shape), 0, 255).astype(np.uint8)
    assert np.abs(made(tmp_path / "a.png", Image.fromarray(noisy))[0].astype(int) - seven).mean() < 2
    for suffix in ("jpg", "png"):
        large = Image.fromarray(page).resize((3000, 2400), Image.Resampling.BICUBIC).convert("RGB")
        assert np.abs(made(tmp_path / f"a.{suffix}", large)[0].astype(int) - seven).mean() < 0.5


@pytest.mark.parametrize("orientation", BACK)
def test_exif_orientation_is_honoured(tmp_path, page, seven, orientation):
    turned = Image.fromarray(page).transpose(Image.Transpose(BACK[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels, sentence = made(tmp_path / "a.png", turned, exif=exif)
    np.testing.assert_array_equal(pixels, seven)
    assert "rotated as its EXIF data says" in sentence


def on_nothing(page, ink):
    """Return the shape in grey ``ink`` on a transparent background of the same grey."""
    alpha = np.where(page < 100, 255, 0).astype(np.uint8)
    return Image.fromarray(np.dstack([np.full((*page.shape, 3), ink, np.uint8), alpha]))


@pytest.mark.parametrize("ink", [0, 40, 215, 255])
def test_ink_on_nothing_gets_paper(tmp_path, page, seven, ink):
    image = on_nothing(page, ink)
    for mode, name in (("RGBA", "a.png"), ("LA", "b.png"), ("RGBA", "c.webp")):
        pixels, sentence = made(tmp_path / name, image.convert(mode), **({"lossless": True} if "w" in name else {}))
        np.testing.assert_array_equal(pixels, seven)
        assert "put on plain paper" in sentence


def test_a_page_with_transparent_corners_keeps_its_paper(tmp_path, page, seven):
    alpha = np.full(page.shape, 255, np.uint8)
    alpha[:15, :15] = alpha[-15:, -15:] = 0
    image = Image.fromarray(np.dstack([page, page, page, alpha]))
    np.testing.assert_array_equal(made(tmp_path / "a.png", image)[0], seven)


def test_noise_of_the_paper_leaves_it_blank(tmp_path, page, seven, rng):
    paper = np.pad(np.zeros((20, 20), bool), 4, constant_values=True) | (seven > 0)
    for deviation in (4, 8, 16):
        noisy = np.clip(page + rng.normal(0, deviation, page.shape), 0, 255).astype(np.uint8)
        pixels, _ = made(tmp_path / "a.png", Image.fromarray(noisy))
        assert np.count_nonzero(pixels[~paper]) < 0.1 * np.count_nonzero(~paper)  # more if noise is not subtracted


@pytest.mark.parametrize("side", range(4))
def test_ink_that_is_heavy_on_one_side_stays_in_the_square(tmp_path, side):
    """If centred by mass, it would extend past the edge."""
    page = np.full((300, 300), 255, np.uint8)
    page[50:250, 50:70] = page[50:250, 225:250] = 0
    page[50:250, 70:225] = 190
    page[140:160, 50:250] = 0
    page[50:250, 50:110] = 0
    frame = images.Framing(28, 27, True, 14.0)
    pixels, sentence = made(tmp_path / "a.png", Image.fromarray(np.rot90(page, side).copy()), frame)
    assert extents(pixels) == [27, 27]
    assert "centred by mass" in sentence


def test_deep_pictures_of_few_levels_are_not_divided(tmp_path, page, seven):
    """A 16-bit file may contain only values up to 255."""
    np.testing.assert_array_equal(made(tmp_path / "a.png", Image.fromarray(page.astype(np.uint16)))[0], seven)


def test_every_format_and_mode(tmp_path, page, seven):
    image = Image.fromarray(page)
    for name in ("a.bmp", "a.gif", "a.jpg", "a.pgm", "a.tif", "a.webp"):
        assert np.abs(made(tmp_path / name, image)[0].astype(int) - seven).mean() < 6, name
    black = image.convert("1", dither=Image.Dither.NONE)
    assert np.abs(made(tmp_path / "a.png", black)[0].astype(int) - seven).mean() < 6
    for mode in ("P", "RGB", "RGBA"):
        assert np.abs(made(tmp_path / "a.png", image.convert(mode))[0].astype(int) - seven).mean() < 6, mode
    assert np.abs(made(tmp_path / "a.jpg", image.convert("CMYK"))[0].astype(int) - seven).mean() < 6
    deep = Image.fromarray(page.astype(np.uint16) * 257)
    np.testing.assert_array_equal(made(tmp_path / "deep.png", deep)[0], seven)


def test_a_dot_and_a_line_are_pictures_too(tmp_path):
    for shape in ((1, 1), (1, 90), (90, 1)):
        page = np.full((100, 100), 255, np.uint8)
        page[5 : 5 + shape[0], 5 : 5 + shape[1]] = 0
        pixels, _ = made(tmp_path / "a.png", Image.fromarray(page))
        assert pixels.max() == 255


def test_a_folder_is_read_by_name(tmp_path, page):
    for name in ("b.png", "A.PNG", "c.jpeg", ".hidden.png"):
        Image.fromarray(page).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no picture")
    assert [path.name for path in images.find(tmp_path)] == ["A.PNG", "b.png", "c.jpeg"]
    assert images.find(tmp_path / "notes.txt") == [tmp_path / "notes.txt"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="a folder without pictures"):
        images.find(tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        images.find(tmp_path / "nowhere")


def png(width, height, data=b"", kind=0, depth=8, transparent=None):
    """Return a PNG whose header claims this size; one of its grey levels may be transparent."""

    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    body = chunk(b"tRNS", struct.pack(">H", transparent)) if transparent is not None else b""
    body += chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body


def encoded(page, kind, **options):
    file = io.BytesIO()
    Image.fromarray(page).save(file, kind, **options)
    return file.getvalue()


OTHER, DAMAGED, HUGE = (
    "a file of another kind",
    "cannot be decoded",
    "far more pixels, expected at most 67108864 pixels",
)
HOSTILE = {
    "nothing": (b"", OTHER),
    "text": (b"not a picture", OTHER),
    "HTML": (b"<!doctype html><html></html>", OTHER),
    "SVG": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", OTHER),
    "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", OTHER),
    "a huge PNG": (png(100_000, 100_000), HUGE),
    "a PNG bomb": (
        png(9000, 9000, bytes(9001 * 9000)),
        "9000x9000, expected at most 67108864 pixels .*make it smaller",
    ),
    "a PNG bomb in colour": (png(8000, 8000, kind=6), "8000x8000, expected at most 48000000 pixels .*make it smaller"),
    "a PNG of no width": (png(0, 10), OTHER),
    "a PNG without pixels": (png(500, 500), DAMAGED),
    "a huge GIF": (b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0, 0, 0) + b";", OTHER),
    "a huge PGM": (b"P5 60000 60000 255\n", HUGE),
    "a short PGM": (b"P5 5000 5000 255\nabc", DAMAGED),
    "a huge BMP": (b"BM" + struct.pack("<IIIIiiHH", 60, 0, 54, 40, 2**30, 2**30, 1, 24) + bytes(24), HUGE),
    "a format that is not on the list": (encoded(np.eye(50, dtype=np.uint8) * 255, "PCX"), OTHER),
    "blank paper": (encoded(np.full((50, 60), 200, np.uint8), "PNG"), "a blank picture"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_no_whole_picture_is_refused_with_its_name(tmp_path, name):
    content, words = HOSTILE[name]
    path = tmp_path / "it.png"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=words) as refused:
        images.read([path])
    assert str(refused.value).startswith(f"{path}: got ")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"])
def test_cut_and_changed_files_are_read_or_refused(tmp_path, page, kind, rng):
    """No crash, no other error, no warning. A changed pixel is damage that cannot be detected."""
    whole = encoded(page, kind)
    path = tmp_path / "it"
    for at in rng.integers(0, len(whole) // 2, 10):
        path.write_bytes(whole[:at])
        with pytest.raises(ValueError, match="got "):
            images.read([path])
    for _ in range(40):
        changed = bytearray(whole)
        for at in rng.integers(0, min(len(whole), 400), 3):
            changed[at] = rng.integers(0, 256)
        path.write_bytes(changed)
        with contextlib.suppress(ValueError):
            images.read([path])


def spot(rows, length):
    """Return rows of zero bytes, each after a filter byte, with a spot of ones in the middle."""
    blank, inked = bytes(1 + length), bytes(length // 2) + b"\xff" * (length // 8)
    middle = b"\0" + inked + bytes(length - len(inked))
    return blank * (rows // 2) + middle * (rows // 8) + blank * (rows - rows // 2 - rows // 8)


def largest_webp():
    pixels = np.zeros((3000, 4000, 3), np.uint8)
    pixels[1000:2000, 1500:2500] = 255
    return encoded(pixels, "WEBP", lossless=True)


LARGE = {
    "1 bit, one level transparent": lambda: png(8192, 8192, spot(8192, 1024), depth=1, transparent=0),
    "16 bit": lambda: png(8192, 8192, spot(8192, 2 * 8192), depth=16),
    "colour with transparency": lambda: png(6900, 6900, spot(6900, 4 * 6900), kind=6),
    "a line": lambda: png(2**26, 1, spot(1, 2**26) + b"\1"),
    "WebP": largest_webp,
}
PEAK = """
import pathlib, re, sys
import PIL.ExifTags, PIL.Image, numpy
from fastmlp.datasets import decoding, images
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", pathlib.Path("/proc/self/status").read_text())[1])
PIL.Image.init()
pathlib.Path("/proc/self/clear_refs").write_text("5")  # reset the peak, which may be the parent's
before = peak()
for path in sorted(pathlib.Path({folder!r}).iterdir()):
    try:
        decoding.grey(path)
    except ValueError:
        print("refused")
    else:
        print("read")
print(peak() - before)
"""


def peak(run_python, folder, contents):
    """Write pictures, read each in its own process, and return those that were read and the peak in kB."""
    for i, content in enumerate(contents):
        (folder / f"{i:03}").write_bytes(content)
    *outcomes, kilobytes = run_python(PEAK.format(folder=str(folder))).stdout.split()
    return outcomes, int(kilobytes)


@pytest.mark.skipif(sys.platform != "linux", reason="asks the kernel of Linux")
def test_bombs_take_no_memory(tmp_path, run_python):
    bombs = [content for name, (content, _) in HOSTILE.items() if "huge" in name or "bomb" in name]
    outcomes, kilobytes = peak(run_python, tmp_path, bombs)
    assert outcomes == ["refused"] * 6
    assert kilobytes < 50_000


@pytest.mark.skipif(sys.platform != "linux", reason="asks the kernel of Linux")
@pytest.mark.parametrize("name", LARGE)
def test_large_pictures_are_read_within_200_megabytes(tmp_path, run_python, name):
    """Each has nearly the largest allowed number of pixels, in a file of a few kilobytes."""
    outcomes, kilobytes = peak(run_python, tmp_path, [LARGE[name]()])
    assert outcomes == ["read"]
    assert kilobytes < 200_000


@pytest.mark.skipif(os.name == "nt", reason="creates a pipe")
def test_what_is_no_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path, words in ((tmp_path / "pipe", "a pipe"), (tmp_path, "a folder")):
        with pytest.raises(ValueError, match=words):
            images.read([path])
    with pytest.raises(FileNotFoundError, match="nothing.png"):
        images.read([tmp_path / "nothing.png"])


def test_without_pillow_the_extra_is_named(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "PIL", None)
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(ImportError, match=r'pip install "\.\[cli\]" in a clone'):
        images.read([tmp_path / "a.png"])
