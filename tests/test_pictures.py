"Room `pictures`: image files as a person sees them, with all of their bits."
import shutil
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from dd_nb import pictures as P
from dd_nb.data import load_data
from dd_nb.pictures import image_head,read_images
from dd_nb.readers import data_from_dataset,data_from_folder
from test_readers import Pairs,both,every_warning_is_an_error,folder,gray,one_sentence,write   # noqa: F401


# ---- channels --------------------------------------------------------------------------------------------------------

def test_channels():
    d = load_data('digits', size=8, channels=3)
    assert d.shape == (3, 8, 8) and d.raw_train[:, 0].equal(d.raw_train[:, 2])
    rgb = torch.tensor([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]], dtype=torch.uint8)[:, :, None, None]
    assert P.to_channels(rgb, 1).flatten().tolist() == [76, 150, 29, 255]


# ---- bits -------------------------------------------------------------------------------------------------------------

def png16(a):
    "A PNG file of 16 bits with 1 to 4 channels, written by hand: PIL writes gray alone."
    h, w, c = a.shape
    def chunk(t, d): return struct.pack('>I', len(d)) + t + d + struct.pack('>I', zlib.crc32(t + d))
    rows = b''.join(b'\0' + r.astype('>u2').tobytes() for r in a)
    return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', struct.pack('>IIBBBBB', w, h, 16, {1: 0, 2: 4, 3: 2, 4: 6}[c], 0, 0, 0)) + chunk(b'IDAT', zlib.compress(rows)) + chunk(b'IEND', b'')


def deep(root, top, ending='.png', n=4, seed=0):
    "Class folders of images of 16 bits with values from 0 to `top`; returns the values."
    rng = np.random.RandomState(seed)
    xs = rng.randint(0, top + 1, size=(2*n, 6, 5)).astype(np.uint16)
    xs[0, 0, 0] = top
    for i, x in enumerate(xs):
        p = root/'ab'[i % 2]/f'{i}{ending}'
        p.parent.mkdir(parents=True, exist_ok=True)
        if ending == '.pgm': p.write_bytes(b'P5\n5 6\n65535\n' + x.astype('>u2').tobytes())
        else: Image.fromarray(x).save(p)
    return xs


@pytest.mark.parametrize('ending', ['.png', '.tif', '.pgm'])
@pytest.mark.parametrize('top, white', [(1023, 1023), (4095, 4095), (3000, 4095), (16383, 16383), (40000, 65535), (65535, 65535)])
def test_the_range_of_16_bits_comes_from_the_data_and_nothing_is_lost(tmp_path, ending, top, white):
    xs = deep(tmp_path, top, ending)
    d = data_from_folder(tmp_path)
    x, y = both(d)
    assert x.dtype == torch.float32 and d.scale == (0, 1)
    assert sorted((x.double()*white).round().flatten().tolist()) == sorted(xs.flatten().tolist())
    for c in (0, 1): assert sorted((x[y == c].double()*white).round().flatten().tolist()) == sorted(xs[c::2].flatten().tolist())


@pytest.mark.parametrize('ending', ['.png', '.tif', '.pgm'])
def test_16_bits_below_256_are_bytes(tmp_path, ending):
    xs = deep(tmp_path, 255, ending)
    d = data_from_folder(tmp_path)
    x, _ = both(d)
    assert x.dtype == torch.uint8 and sorted(x.flatten().tolist()) == sorted(xs.flatten().tolist()) and d.norm.std.item() > .2


def test_the_range_is_that_of_the_whole_set_and_can_be_given(tmp_path):
    deep(tmp_path/'train', 900); deep(tmp_path/'test', 3900, seed=1)
    d = data_from_folder(tmp_path)
    assert .2 < d.raw_train.max() < .23 and d.raw_test.max() > .95
    assert data_from_folder(tmp_path, depth=16).raw_test.max() < .06
    with pytest.raises(ValueError, match='depth must be at least 12 for these images, whose largest number is 3900, got 10'): data_from_folder(tmp_path, depth=10)
    with pytest.raises(ValueError, match='depth must be at most 16, got 17'): data_from_folder(tmp_path, depth=17)
    with pytest.raises(ValueError, match='depth must be left out for images of 8 bits'): data_from_folder(folder(tmp_path/'test'/'x'), depth=12)
    shutil.rmtree(tmp_path/'test'/'x')
    assert load_data(tmp_path, depth=14).raw_test.max() < .25
    small = data_from_folder(tmp_path, size=3)
    assert small.raw_train.dtype == torch.float32 and small.shape == (1, 3, 3) and .05 < small.raw_train.mean() < .2


@pytest.mark.parametrize('channels', [1, 2, 3, 4])
def test_colours_of_16_bits_in_a_png_file_keep_their_bits(tmp_path, channels):
    rng = np.random.RandomState(0)
    for i in range(8):
        a = rng.randint(0, 200, size=(6, 5, channels)).astype(np.uint16)     # PIL alone reads black
        if channels in (2, 4): a[..., -1] = 65535
        (tmp_path/'ab'[i % 2]).mkdir(exist_ok=True); (tmp_path/'ab'[i % 2]/f'{i}.png').write_bytes(png16(a))
    try: d = data_from_folder(tmp_path)
    except ValueError as e:
        if 'At most 8-bit PNG images are supported' not in str(e): raise
        pytest.skip('torchvision is too old to decode them: refused in a sentence')
    assert d.shape == (1 if channels < 3 else 3, 6, 5) and both(d)[0].float().std() > 50 and d.raw_train.dtype == torch.uint8
    clear = a.copy()
    if channels in (2, 4):
        clear[..., -1] = 0
        (tmp_path/'a'/'clear.png').write_bytes(png16(clear))
        assert read_images([tmp_path/'a'/'clear.png'], (6, 5), 3).eq(1).all() and read_images([tmp_path/'a'/'clear.png'], (6, 5), 3, background=0).eq(0).all()


def test_other_colours_of_16_bits_are_refused(tmp_path):
    p = tmp_path/'a'/'0.ppm'
    p.parent.mkdir()
    p.write_bytes(b'P6\n5 6\n65535\n' + np.full((6, 5, 3), 300, '>u2').tobytes())
    with pytest.raises(ValueError, match='its colours have 16 bits, which is read from PNG files only, not from PPM'): read_images([p], (6, 5), 3)


def test_floating_point_images_are_read_where_their_range_is_clear(tmp_path):
    for i in range(8): write(tmp_path/'ab'[i % 2]/f'{i}.tif', np.linspace(0, .9, 30, dtype=np.float32).reshape(6, 5)*(i + 1)/8)
    x, _ = both(data_from_folder(tmp_path))
    assert x.max().item() == pytest.approx(.9) and x.dtype == torch.float32
    write(tmp_path/'a'/'9.tif', np.full((6, 5), 700, dtype=np.float32))
    with pytest.raises(ValueError, match="mode 'F' cannot be read with values from 0 to 700: scale them to .0, 1., or give depth=") as e: data_from_folder(tmp_path)
    one_sentence(e)
    assert data_from_folder(tmp_path, depth=10).raw_train.max() < .7
    write(tmp_path/'a'/'9.tif', np.full((6, 5), np.nan, dtype=np.float32))
    with pytest.raises(ValueError, match='9.tif cannot be read'): data_from_folder(tmp_path)
    write(tmp_path/'a'/'9.tif', np.full((6, 5), 70000, dtype=np.int32))
    with pytest.raises(ValueError, match="mode 'I' cannot be read with values from 70000"): data_from_folder(tmp_path)


# ---- transparency, palettes, notes ------------------------------------------------------------------------------------

def test_transparent_red_is_not_red(tmp_path):
    red = np.zeros((6, 5, 4), np.uint8); red[..., 0] = 255
    pal = Image.fromarray(gray(3)).convert('P'); pal.putpalette([255, 0, 0]*256)
    write(tmp_path/'rgba.png', red); write(tmp_path/'p.png', pal, transparency=3); write(tmp_path/'rgb.png', red[..., :3], ); write(tmp_path/'p.gif', pal, transparency=3)
    write(tmp_path/'keyed.png', red[..., :3], transparency=(255, 0, 0)); write(tmp_path/'la.png', np.stack([gray(70), gray(0)], -1)); write(tmp_path/'webp.webp', red, lossless=True, exact=True)
    def seen(name, **kw): return read_images([tmp_path/name], (6, 5), 3, **kw)[0, :, 2, 2].tolist()
    assert seen('rgb.png') == [255, 0, 0]
    for name in ('rgba.png', 'p.png', 'p.gif', 'keyed.png', 'la.png', 'webp.webp'):
        assert seen(name) == [255]*3, name
        assert seen(name, background='black') == [0]*3 and seen(name, background=(1, 2, 3)) == ([1, 2, 3] if name != 'la.png' else [2, 2, 2]), name
    half = red.copy(); half[..., 3] = 128
    write(tmp_path/'half.png', half)
    assert seen('half.png')[0] == 255 and abs(seen('half.png')[1] - 127) <= 1
    with pytest.raises(ValueError, match="background must be 'white', 'black', a gray"): read_images([tmp_path/'half.png'], (6, 5), 3, background='red')
    assert image_head(tmp_path/'la.png') == ((6, 5), 'LA')


def test_other_modes(tmp_path):
    x = (np.arange(30).reshape(6, 5)*8).astype(np.uint8)
    write(tmp_path/'bit.png', Image.fromarray(x).convert('1')); write(tmp_path/'cmyk.tif', Image.fromarray(np.stack([x]*3, -1)).convert('CMYK')); write(tmp_path/'l.bmp', x)
    got = [read_images([tmp_path/n], (6, 5), 1)[0, 0] for n in ('bit.png', 'cmyk.tif', 'l.bmp')]
    assert set(got[0].unique().tolist()) == {0, 255} and (got[1].int() - torch.from_numpy(x).int()).abs().max() <= 1 and got[2].equal(torch.from_numpy(x))


def test_a_gray_tiff_file_on_its_side(tmp_path):
    "PIL 12 and 13 map such files into memory with height and width exchanged."
    x = np.arange(30, dtype=np.uint8).reshape(5, 6)
    note = Image.Exif(); note[0x0112] = 6
    write(tmp_path/'a.tif', x, exif=note)
    assert image_head(tmp_path/'a.tif')[0] == (6, 5) and (read_images([tmp_path/'a.tif'], (6, 5), 1)[0, 0].numpy() == np.rot90(x, -1)).all()
    d = data_from_dataset(Pairs([(Image.open(tmp_path/'a.tif'), i % 2) for i in range(8)]))
    assert (d.raw_train[0, 0].numpy() == np.rot90(x, -1)).all()


@pytest.mark.parametrize('ending', ['.jpg', '.png', '.tif', '.webp'])
@pytest.mark.parametrize('orientation', range(1, 9))
def test_photographs_are_turned_as_their_note_says(tmp_path, ending, orientation):
    x = np.zeros((16, 24, 3), np.uint8); x[:8, :8] = 255; x[:8, 8:16, 0] = 255
    note = Image.Exif(); note[0x0112] = orientation
    p = tmp_path/f'a{ending}'
    write(p, x, exif=note, **(dict(lossless=True) if ending == '.webp' else dict(quality=95, subsampling=0) if ending == '.jpg' else {}))
    with Image.open(p) as im: want = np.array(ImageOps.exif_transpose(im).convert('RGB'))
    assert image_head(p)[0] == want.shape[:2] == ((24, 16) if orientation > 4 else (16, 24))
    got = read_images([p], want.shape[:2], 3)[0].permute(1, 2, 0).numpy()
    assert (got == want).all()


def test_a_deep_image_is_turned_too_and_a_note_that_is_broken_is_none(tmp_path):
    note = Image.Exif(); note[0x0112] = 6
    x = (np.arange(30).reshape(5, 6)*100).astype(np.uint16)
    write(tmp_path/'a.png', x, exif=note)
    assert image_head(tmp_path/'a.png')[0] == (6, 5)
    got = read_images([tmp_path/'a.png'], (6, 5), 1)[0, 0]
    assert ((got*4095).round().numpy() == np.rot90(x, -1)).all()
    write(tmp_path/'b.jpg', gray(7), exif=b'Exif\0\0nonsense')
    assert read_images([tmp_path/'b.jpg'], (6, 5), 1).eq(7).all()
