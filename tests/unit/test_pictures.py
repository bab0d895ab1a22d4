"""Pictures: every kind of file becomes upright RGB or a named error, and tokens go back to pictures."""

import tempfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from genrec_lab.encoders.pictures import PictureError, PictureTarget, centre_square, read_picture
from genrec_lab.viz.figures.pictures import picture_uri


def striped(width: int = 40, height: int = 20) -> Image.Image:
    """Left half red, right half blue."""
    image = Image.new("RGB", (width, height), (200, 0, 0))
    image.paste((0, 0, 200), (width // 2, 0, width, height))
    return image


def saved(image: Image.Image, file: Path, **options: object) -> Path:
    image.save(file, **options)
    return file


def near(pixel: object, colour: tuple[int, int, int], tolerance: int = 12) -> bool:
    return bool(np.abs(np.subtract(pixel, colour)).max() <= tolerance)


class TestReading:
    def test_plain_pictures_are_read_as_they_are(self, tmp_path: Path) -> None:
        repairs: dict[str, int] = {}
        image = read_picture(saved(striped(), tmp_path / "a.png"), repairs=repairs)
        np.testing.assert_array_equal(np.asarray(image), np.asarray(striped()))
        assert repairs == {}

    @pytest.mark.parametrize(
        ("mode", "file", "repair"),
        [
            ("L", "a.jpg", "pictures_from_grey"),
            ("1", "a.png", "pictures_from_grey"),
            ("CMYK", "a.jpg", "pictures_from_cmyk"),
            ("P", "a.gif", "pictures_from_palette"),
        ],
    )
    def test_other_modes_become_the_rgb_they_show(
        self, tmp_path: Path, mode: str, file: str, repair: str
    ) -> None:
        repairs = {repair: 4}
        image = read_picture(saved(striped().convert(mode), tmp_path / file), repairs=repairs)
        assert (image.mode, image.size, repairs) == ("RGB", (40, 20), {repair: 5})
        if mode in ("CMYK", "P"):
            assert near(image.getpixel((5, 10)), (200, 0, 0)) and near(image.getpixel((35, 10)), (0, 0, 200))

    def test_sixteen_bits_of_grey_are_scaled_not_cut(self, tmp_path: Path) -> None:
        values = np.array([[0, 257 * 128, 65_535]], dtype=np.uint16)
        repairs: dict[str, int] = {}
        image = read_picture(saved(Image.fromarray(values), tmp_path / "a.png"), repairs=repairs)
        assert np.asarray(image)[0, :, 1].tolist() == [0, 128, 255]
        assert repairs == {"pictures_from_grey": 1}

    def test_transparent_places_are_white(self, tmp_path: Path) -> None:
        layered = striped().convert("RGBA")
        layered.putpixel((0, 0), (0, 0, 0, 0))
        layered.putpixel((1, 0), (0, 0, 0, 128))
        repairs: dict[str, int] = {}
        image = read_picture(saved(layered, tmp_path / "a.png"), repairs=repairs)
        assert image.getpixel((0, 0)) == (255, 255, 255)
        assert near(image.getpixel((1, 0)), (127, 127, 127), 2)
        assert image.getpixel((9, 9)) == (200, 0, 0)
        assert repairs == {"pictures_on_white": 1}

    def test_an_opaque_alpha_is_no_repair(self, tmp_path: Path) -> None:
        repairs: dict[str, int] = {}
        image = read_picture(saved(striped().convert("RGBA"), tmp_path / "a.png"), repairs=repairs)
        assert (image.mode, repairs) == ("RGB", {})

    def test_a_transparent_palette_colour_is_white(self, tmp_path: Path) -> None:
        flat = striped().quantize(4)
        red = flat.getpixel((0, 0))
        repairs: dict[str, int] = {}
        image = read_picture(saved(flat, tmp_path / "a.png", transparency=red), repairs=repairs)
        assert image.getpixel((3, 3)) == (255, 255, 255) and near(image.getpixel((35, 3)), (0, 0, 200))
        assert repairs == {"pictures_from_palette": 1, "pictures_on_white": 1}

    def test_animated_pictures_give_their_first_frame(self, tmp_path: Path) -> None:
        frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "green")]
        file = saved(frames[0], tmp_path / "a.gif", save_all=True, append_images=frames[1:])
        repairs: dict[str, int] = {}
        assert read_picture(file, repairs=repairs).getpixel((4, 4)) == (255, 0, 0)
        assert repairs["pictures_first_frame"] == 1

    def test_cameras_orientation_is_applied(self, tmp_path: Path) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6  # turn by 90 degrees clockwise to see it upright
        repairs: dict[str, int] = {}
        image = read_picture(saved(striped(), tmp_path / "a.png", exif=exif), repairs=repairs)
        assert image.size == (20, 40)
        assert image.getpixel((10, 2)) == (200, 0, 0) and image.getpixel((10, 38)) == (0, 0, 200)
        assert repairs == {"pictures_turned": 1}

    @pytest.mark.parametrize("file", ["a.jpg", "a.png"])
    def test_huge_pictures_are_shrunk_and_keep_their_shape(self, tmp_path: Path, file: str) -> None:
        repairs: dict[str, int] = {}
        path = saved(striped(1200, 600), tmp_path / file)
        image = read_picture(path, max_pixels=5_000, repairs=repairs)
        assert image.size == (100, 50)
        assert near(image.getpixel((10, 25)), (200, 0, 0)) and near(image.getpixel((90, 25)), (0, 0, 200))
        assert repairs == {"pictures_shrunk": 1}

    def test_a_huge_jpeg_is_never_decoded_whole(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file = saved(striped(1600, 800), tmp_path / "a.jpg")
        sizes = []
        load = Image.core.new

        def note(mode: str, size: tuple[int, int]) -> object:
            sizes.append(size)
            return load(mode, size)

        monkeypatch.setattr(Image.core, "new", note)
        read_picture(file, max_pixels=20_000)
        assert sizes and max(width for width, _ in sizes) <= 400


class TestRefusing:
    @pytest.mark.parametrize(
        "damage",
        [
            lambda data: data[: len(data) // 2],
            lambda data: b"not a picture at all",
            lambda data: b"",
            lambda data: data[:40] + bytes(len(data) - 40),
        ],
        ids=["half", "text", "empty", "zeroed"],
    )
    @pytest.mark.parametrize("kind", ["png", "jpg", "gif"])
    def test_broken_files_name_item_and_file(
        self, tmp_path: Path, kind: str, damage: Callable[[bytes], bytes]
    ) -> None:
        noise = np.random.default_rng(0).integers(0, 256, (60, 60, 3)).astype(np.uint8)
        file = saved(Image.fromarray(noise), tmp_path / f"broken.{kind}")
        file.write_bytes(damage(file.read_bytes()))
        with pytest.raises(PictureError, match=rf"item B001: .*broken.{kind} is not a picture"):
            read_picture(file, item="B001")

    @given(
        st.binary(max_size=200), st.sampled_from([b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF89a", b"BM"])
    )
    def test_random_bytes_are_a_picture_error_or_a_picture(self, data: bytes, head: bytes) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "fuzz"
            path.write_bytes(head + data)
            refused = ""
            try:
                assert read_picture(path, item="B002").mode == "RGB"
            except PictureError as error:
                refused = str(error)
            assert not refused or ("B002" in refused and str(path) in refused)

    def test_a_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(PictureError, match=r"item B003: there is no picture .*gone.png; restore it"):
            read_picture(tmp_path / "gone.png", item="B003")

    @pytest.mark.parametrize("path", ["../outside.png", "inner/../../outside.png"])
    def test_a_path_out_of_the_folder(self, tmp_path: Path, path: str) -> None:
        (tmp_path / "pictures").mkdir()
        saved(striped(), tmp_path / "outside.png")
        with pytest.raises(PictureError, match=r"item B004: .* outside the pictures' folder"):
            read_picture(path, root=tmp_path / "pictures", item="B004")

    def test_a_link_and_an_absolute_path_out_of_the_folder(self, tmp_path: Path) -> None:
        folder = tmp_path / "pictures"
        folder.mkdir()
        outside = saved(striped(), tmp_path / "outside.png")
        (folder / "link.png").symlink_to(outside)
        for path in ("link.png", outside):
            with pytest.raises(PictureError, match="outside the pictures' folder"):
                read_picture(path, root=folder)
        saved(striped(), folder / "inside.png")
        assert read_picture("inside.png", root=folder).size == (40, 20)
        assert read_picture(folder / "inside.png", root=folder).size == (40, 20)

    def test_pixels_without_a_known_range(self, tmp_path: Path) -> None:
        file = saved(Image.fromarray(np.ones((4, 4), dtype=np.float32)), tmp_path / "a.tiff")
        with pytest.raises(PictureError, match=r"floats of unknown range; save it with 8 bits"):
            read_picture(file)

    def test_a_decompression_bomb(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        file = saved(striped(), tmp_path / "a.png")
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 300)
        with pytest.raises(PictureError, match=r"item B005: .*a.png is too large to decode"):
            read_picture(file, item="B005")
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)  # between one and two times: read, silently
        assert read_picture(file).size == (40, 20)

    @pytest.mark.parametrize("kind", ["EPS", "PDF", "ICNS", "TGA"])
    def test_no_other_formats_whatever_the_name_says(self, tmp_path: Path, kind: str) -> None:
        # Pillow would have Ghostscript run a PostScript file.
        file = tmp_path / "cover.png"
        striped().convert("RGB").save(file, kind)
        with pytest.raises(PictureError, match=r"item B006: .*cover.png is not a picture that can be read"):
            read_picture(file, item="B006")
        with pytest.raises(ValueError, match=r"cover.png: not a picture that can be read"):
            picture_uri(file)

    def test_too_many_pixels_are_refused_before_they_are_decoded(self, tmp_path: Path) -> None:
        file = tmp_path / "a.png"
        Image.new("1", (8_001, 8_000)).save(file)  # 64 million pixels in some kB
        tracemalloc.start()
        with pytest.raises(PictureError, match=r"8,001 x 8,000 pixels, at most 64,000,000 are read"):
            read_picture(file)
        assert tracemalloc.get_traced_memory()[1] < 10 * 2**20
        tracemalloc.stop()


class TestPixelTokens:
    def test_centre_square_cuts_the_longer_side(self) -> None:
        image = Image.new("RGB", (300, 100), "white")
        image.paste((0, 0, 0), (100, 0, 200, 100))
        square = centre_square(image, 50)
        assert square.shape == (3, 50, 50) and square.dtype == torch.float32
        assert square[:, 5:-5, 5:-5].max() == 0

    def test_a_token_is_one_patch_in_reading_order(self) -> None:
        target = PictureTarget(size=6, patch=2)
        image = torch.rand(3, 6, 6)
        tokens = target.to_tokens(image)
        assert (target.tokens, target.channels, target.side) == (9, 12, 3)
        for row in range(3):
            for column in range(3):
                patch = image[:, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
                torch.testing.assert_close(tokens[3 * row + column], 2 * patch.flatten() - 1)

    @given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 3), st.integers(0, 999))
    def test_going_back_gives_every_byte(self, patch: int, side: int, batch: int, seed: int) -> None:
        target = PictureTarget(size=patch * side, patch=patch)
        rng = np.random.default_rng(seed)
        size = (batch, 3, patch * side, patch * side)
        pixels = torch.from_numpy(rng.integers(0, 256, size).astype(np.uint8))
        tokens = target.to_tokens(pixels / 255)
        assert tokens.min() >= -1 and tokens.max() <= 1
        assert torch.equal((target.to_images(tokens) * 255).round().to(torch.uint8), pixels)
        torch.testing.assert_close(target.to_tokens(pixels[0] / 255), tokens[0])

    def test_what_is_drawn_is_cut_to_colours(self) -> None:
        target = PictureTarget(size=2, patch=2)
        drawn = target.to_images(torch.tensor([[[-3.0] * 6 + [3.0] * 6]]))
        assert drawn.min() == 0 and drawn.max() == 1

    def test_what_does_not_fit_is_refused(self) -> None:
        with pytest.raises(ValidationError, match=r"size = 30 is not a multiple of patch = 8"):
            PictureTarget(size=30, patch=8)
        target = PictureTarget(size=16, patch=8)
        with pytest.raises(ValueError, match=r"pictures have shape \(3, 8, 8\); expected \(3, 16, 16\)"):
            target.to_tokens(torch.zeros(3, 8, 8))
        with pytest.raises(ValueError, match=r"shape \(1, 4, 12\); expected \(B, 4, 192\)"):
            target.to_images(torch.zeros(1, 4, 12))


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from diffusers import AutoencoderKL

    folder = tmp_path_factory.mktemp("autoencoder")
    torch.manual_seed(0)
    AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(8, 8, 16),
        layers_per_block=1,
        latent_channels=6,
        norm_num_groups=4,
        sample_size=16,
        scaling_factor=0.25,
        shift_factor=0.5,
    ).save_pretrained(folder)
    return folder


class TestLatentTokens:
    def test_tokens_are_the_scaled_latents_place_by_place(self, autoencoder: Path) -> None:
        from diffusers import AutoencoderKL

        target = PictureTarget(size=16, autoencoder=str(autoencoder))
        assert (target.tokens, target.channels, target.side) == (16, 6, 4)
        images = torch.rand(2, 3, 16, 16)
        tokens = target.to_tokens(images)
        model = AutoencoderKL.from_pretrained(autoencoder).eval()
        with torch.no_grad():
            mean = model.encode(2 * images - 1).latent_dist.mean
            wanted = model.decode(mean).sample
        for row in range(4):
            for column in range(4):
                torch.testing.assert_close(
                    tokens[:, 4 * row + column], (mean[:, :, row, column] - 0.5) * 0.25
                )
        torch.testing.assert_close(
            target.to_images(tokens), ((wanted + 1) / 2).clamp(0, 1), atol=1e-5, rtol=1e-4
        )
        torch.testing.assert_close(target.to_tokens(images), tokens, rtol=0, atol=0)  # no sampling

    def test_what_is_no_autoencoder_is_refused(self, autoencoder: Path, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"not a multiple of the autoencoder's reduction = 4"):
            PictureTarget(size=18, autoencoder=str(autoencoder))
        with pytest.raises(ValueError, match=r"holds no config.json; give the folder"):
            PictureTarget(size=16, autoencoder=str(tmp_path))
        (tmp_path / "other").mkdir()
        (tmp_path / "other" / "config.json").write_text('{"_class_name": "UNet2DModel"}')
        with pytest.raises(ValueError, match=r"holds a UNet2DModel; give the folder"):
            PictureTarget(size=16, autoencoder=str(tmp_path / "other"))
