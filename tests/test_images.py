"""Pictures become what a net was trained on; files that are no whole pictures are refused, in bounded memory."""

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

BACK = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # for an orientation, Pillow's transposition that it undoes


@pytest.fixture
def page():
    """Return a page (240, 300), dark on light, with a thing like a 7 on it."""
    page = np.full((240, 300), 230, np.uint8)
    page[40:60, 90:170] = 20
    for i in range(120):
        page[60 + i, 150 - i // 2 : 170 - i // 2] = 20
    return page


@pytest.fixture
def seven(page, tmp_path):
    """Return what comes of the page as it is."""
    return made(tmp_path / "plain.png", Image.fromarray(page))[0]


def made(path, image, frame=images.MNIST, **options):
    image.save(path, **options)
    pixels, (sentence,) = images.read([path], frame)
    assert pixels.shape == (1, frame.side, frame.side)
    assert pixels.dtype == np.uint8
    return pixels[0], sentence


def centre(pixels):
    """Return the centre of mass, by the definition."""
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
    with pytest.raises(ValueError, match=r"images: got shape \(1, 4, 5\), expected squares"):
        images.framing(np.ones((1, 4, 5)))


def test_an_image_of_the_right_size_is_taken_as_it_is(tmp_path, mnist_data):
    digit = mnist_data[1][0][0]
    pixels, sentence = made(tmp_path / "a.png", Image.fromarray(digit))
    np.testing.assert_array_equal(pixels, digit)
    assert sentence == "28x28, taken as it is"
    pixels, sentence = made(tmp_path / "a.png", Image.fromarray(255 - digit))
    np.testing.assert_array_equal(pixels, digit)
    assert sentence == "28x28, its border is light: inverted"


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
    assert np.mean(likeness) > 0.95  # 0.85 where they lie half a pixel away


def test_polarity_and_contrast_make_no_difference(tmp_path, page, seven):
    np.testing.assert_array_equal(made(tmp_path / "a.png", Image.fromarray(255 - page))[0], seven)
    faint = Image.fromarray((100 + (page > 100) * 30).astype(np.uint8))
    np.testing.assert_array_equal(made(tmp_path / "a.png", faint)[0], seven)


def test_noise_and_large_photographs_make_little(tmp_path, page, seven, rng):
    noisy = np.clip(page + rng.normal(0, 8, page.shape), 0, 255).astype(np.uint8)
    assert np.abs(made(tmp_path / "a.png", Image.fromarray(noisy))[0].astype(int) - seven).mean() < 6
    for suffix in ("jpg", "png"):
        large = Image.fromarray(page).resize((3000, 2400), Image.Resampling.BICUBIC).convert("RGB")
        assert np.abs(made(tmp_path / f"a.{suffix}", large)[0].astype(int) - seven).mean() < 6


@pytest.mark.parametrize("orientation", BACK)
def test_exif_orientation_is_honoured(tmp_path, page, seven, orientation):
    turned = Image.fromarray(page).transpose(Image.Transpose(BACK[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels, sentence = made(tmp_path / "a.png", turned, exif=exif)
    np.testing.assert_array_equal(pixels, seven)
    assert "turned as its EXIF data says" in sentence


def on_nothing(page, ink):
    """Return the thing, in grey ``ink``, on what is transparent and of that very grey."""
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
    with pytest.raises(ValueError, match="a folder without a picture"):
        images.find(tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        images.find(tmp_path / "nowhere")


def png(width, height, data=b"", kind=0):
    """Return a PNG whose header claims this size."""

    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def encoded(page, kind, **options):
    file = io.BytesIO()
    Image.fromarray(page).save(file, kind, **options)
    return file.getvalue()


HOSTILE = {
    "nothing": (b"", "cannot be read"),
    "text": (b"not a picture", "cannot be read"),
    "HTML": (b"<!doctype html><html></html>", "cannot be read"),
    "SVG": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "cannot be read"),
    "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "cannot be read"),
    "a huge PNG": (png(100_000, 100_000), "got a picture of 100000x100000|cannot be read"),
    "a PNG bomb": (png(9000, 9000, bytes(9001 * 9000)), "got a picture of 9000x9000, expected at most"),
    "a PNG of no width": (png(0, 10), "cannot be read"),
    "a PNG without pixels": (png(500, 500), "cannot be read"),
    "a huge GIF": (b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0, 0, 0) + b";", "picture of 65535|cannot be read"),
    "a huge PGM": (b"P5 60000 60000 255\n", "got a picture of 60000x60000|cannot be read"),
    "a short PGM": (b"P5 5000 5000 255\nabc", "cannot be read"),
    "a huge BMP": (b"BM" + struct.pack("<IIIIiiHH", 60, 0, 54, 40, 2**30, 2**30, 1, 24) + bytes(24), "read|picture of"),
    "a format that is not on the list": (encoded(np.eye(50, dtype=np.uint8) * 255, "PCX"), "cannot be read"),
    "blank paper": (encoded(np.full((50, 60), 200, np.uint8), "PNG"), "a picture that shows nothing"),
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
    """Nothing else: no crash, no other error, no warning. A changed pixel is no damage that could be seen."""
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


@pytest.mark.skipif(sys.platform != "linux", reason="asks the kernel of Linux")
def test_bombs_take_no_memory(tmp_path, run_python):
    for name in ("a huge PNG", "a PNG bomb", "a huge GIF", "a huge PGM", "a huge BMP"):
        (tmp_path / name).write_bytes(HOSTILE[name][0])
    run_python(f"""
import pathlib, re
import PIL.Image, numpy
from fastmlp.datasets import images
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", pathlib.Path("/proc/self/status").read_text())[1])
pathlib.Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far, which may be that of the parent
before = peak()
for path in pathlib.Path({str(tmp_path)!r}).iterdir():
    try:
        images.read([path])
    except ValueError:
        continue
    raise AssertionError(path)
assert peak() - before < 50_000, peak() - before
""")


@pytest.mark.skipif(os.name == "nt", reason="makes a pipe")
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
