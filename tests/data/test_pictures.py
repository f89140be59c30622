"""Pictures made into what MNIST's images are, and pictures in which there is not one digit."""

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from nnlab.data.pictures import PictureError, prepare, read_picture
from tests.pictures import DIGITS, STYLES, draw, photograph


def extent(image: np.ndarray) -> tuple[int, int]:
    """Height and width of the ink."""
    rows, columns = np.nonzero(image)
    return int(np.ptp(rows)) + 1, int(np.ptp(columns)) + 1


def middle(image: np.ndarray) -> tuple[float, ...]:
    """The centre of mass."""
    return tuple((np.arange(n) * image.sum(1 - axis)).sum() / image.sum() for axis, n in enumerate(image.shape))


@pytest.mark.parametrize("name", STYLES)
def test_a_digit_is_20_pixels_large_white_on_black_and_centred_by_mass(name):
    for digit in DIGITS:
        image = prepare(draw(digit, STYLES[name]))
        assert (image.dtype, image.shape, image.max()) == (np.uint8, (28, 28), 255)
        assert max(extent(image)) == 20
        assert middle(image) == pytest.approx((14, 14), abs=0.51)
        assert 0.03 < (image > 127).mean() < 0.25


def test_the_colour_of_the_ink_the_place_and_the_size_change_little():
    picture = draw(3, STYLES["pen"])
    expected = prepare(picture).astype(float)
    array = np.asarray(picture)
    for other in (255 - array, np.roll(array, (20, -30), (0, 1)), np.asarray(picture.resize((800, 600))), array // 2):
        assert np.abs(prepare(other) - expected).mean() < 4
    assert prepare(np.repeat(array[..., None], 3, 2)).tolist() == prepare(array).tolist()


def test_a_prepared_image_is_prepared_already():
    image = prepare(draw(5, STYLES["pen"]))
    again = prepare(np.pad(image, 4))
    assert np.abs(again.astype(float) - image).mean() < 8


def test_the_sides_of_other_models():
    image = prepare(draw(2, STYLES["pen"]), 8, 8)
    assert image.shape == (8, 8)
    assert extent(image)[0] == 8


def ink_of(*digits: int) -> np.ndarray:
    """Digits side by side, from 0 to 1."""
    return np.hstack([1 - np.asarray(draw(digit, STYLES["pen"])) / 255.0 for digit in digits])


def portrait() -> Image.Image:
    """A face with hair, eyes, a nose and a mouth, above shoulders."""
    image = Image.new("RGB", (400, 500), (120, 150, 190))
    pen = ImageDraw.Draw(image)
    pen.ellipse((60, 350, 340, 640), fill=(60, 40, 90))
    pen.ellipse((110, 90, 290, 340), fill=(225, 180, 150))
    pen.pieslice((95, 60, 305, 300), 180, 360, fill=(70, 45, 25))
    for x in (165, 235):
        pen.ellipse((x - 18, 190, x + 18, 212), fill="white")
        pen.ellipse((x - 8, 193, x + 8, 209), fill=(40, 60, 40))
        pen.line((x - 22, 178, x + 22, 174), fill=(60, 40, 20), width=6)
    pen.line((200, 210, 192, 260, 206, 262), fill=(170, 120, 100), width=5)
    pen.arc((160, 250, 240, 310), 20, 160, fill=(150, 50, 60), width=8)
    return image.filter(ImageFilter.GaussianBlur(1))


@pytest.mark.parametrize(
    ("picture", "words"),
    [
        (Image.new("L", (400, 300), 255), "shows no digit"),
        (np.zeros((28, 28)), "shows no digit"),
        (photograph(np.zeros((300, 400)), np.random.default_rng(0), inverted=False), "shows no digit"),
        (255 * (1 - ink_of(1, 2, 3)), "shows 3 separate shapes: cut out one digit"),
        (photograph(ink_of(4, 7), np.random.default_rng(1), inverted=True), "shows 2 separate shapes"),
        (portrait(), "separate shapes"),
        (np.pad(np.ones((90, 90)), 200) * 255, "shows a blot"),
        (Image.new("L", (1, 1)), "has 1 × 1 pixels"),
        (np.zeros(3), "must have the shape"),
    ],
    ids=["white", "black", "empty paper", "three", "two", "portrait", "blot", "one pixel", "no picture"],
)
def test_a_picture_without_exactly_one_digit_gets_a_sentence(picture, words):
    with pytest.raises(PictureError, match=words):
        prepare(picture)


# Files


def same(path, expected: Image.Image) -> None:
    found = np.asarray(read_picture(path)).astype(float)
    assert found.shape == np.asarray(expected).shape
    assert np.abs(found - np.asarray(expected)).max() <= 2


@pytest.fixture
def nine() -> Image.Image:
    return draw(9, STYLES["pen"])


@pytest.mark.parametrize("kind", ["png", "bmp", "gif", "tiff", "webp", "ppm"])
def test_formats(tmp_path, nine, kind):
    path = tmp_path / f"nine.{kind}"
    nine.save(path, **({"lossless": True} if kind == "webp" else {}))
    same(path, nine)


@pytest.mark.parametrize("mode", ["1", "P", "RGB", "LA", "RGBA", "I;16", "CMYK"])
def test_modes(tmp_path, nine, mode):
    path = tmp_path / ("nine.tiff" if mode == "CMYK" else "nine.png")
    expected = nine.point(lambda v: 255 * (v > 127)) if mode == "1" else nine
    if mode == "I;16":
        other = Image.fromarray(np.asarray(nine).astype(np.uint16) * 257)
    elif mode in ("LA", "RGBA"):  # the ink is what is not transparent
        other = Image.new("L", nine.size, 0).convert(mode)
        other.putalpha(nine.point(lambda v: 255 - v))
    else:
        other = expected.convert(mode)
    assert other.mode == mode
    other.save(path)
    same(path, expected)


def test_a_palette_may_be_transparent(tmp_path, nine):
    mask = nine.point(lambda v: 255 * (v > 127))
    other = mask.convert("P")
    other.save(tmp_path / "nine.png", transparency=other.getpixel((0, 0)))
    same(tmp_path / "nine.png", mask)


def test_the_rotation_of_a_camera_is_applied(tmp_path, nine):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    nine.rotate(90, expand=True).save(tmp_path / "nine.png", exif=exif)
    same(tmp_path / "nine.png", nine)


def test_a_large_picture_is_read_smaller(tmp_path, nine):
    for name in ("nine.jpg", "nine.png"):
        nine.resize((6000, 4500)).convert("RGB").save(tmp_path / name)
        found = read_picture(tmp_path / name)
        assert 640 <= max(found.size) <= 2600
        assert np.abs(prepare(found).astype(float) - prepare(nine)).mean() < 3


def test_what_cannot_be_read_gets_a_sentence(tmp_path, nine):
    nine.save(tmp_path / "nine.png")
    cut = (tmp_path / "nine.png").read_bytes()[:700]
    Image.new("1", (20_000, 10_000)).save(tmp_path / "bomb.png")
    Image.new("1", (9_000, 9_000)).save(tmp_path / "large.png")
    files = {"cut.png": cut, "a.svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>", "empty.png": b"", "a.eps": b"%!PS"}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    words = {
        "cut.png": "cannot be read",
        "a.svg": "in a format that is read",
        "empty.png": "in a format that is read",
        "a.eps": "in a format that is read",
        "bomb.png": "more than 50 million pixels",
        "large.png": "more than 50 million pixels",
        "none.png": "does not exist",
        "": "is a folder",
    }
    for name, expected in words.items():
        with pytest.raises(PictureError, match=expected) as caught:
            read_picture(tmp_path / name)
        assert "\n" not in str(caught.value)
