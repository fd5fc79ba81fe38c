"Room `readers`: folders, image files, datasets, arrays and tables, read as what they are or refused in one sentence."
import io
import shutil
import struct
import subprocess
import sys
import warnings
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from dd_nb import readers as R
from dd_nb.data import data_from_tensors, load_data
from dd_nb.readers import class_files, data_from_dataset, data_from_folder, data_from_npz, data_from_table, image_head, npz_arrays, read_images, split_of
from dd_nb.text import load_text
from test_data import tensors


@pytest.fixture(autouse=True)
def every_warning_is_an_error(request):
    "A remark must be expected."
    with warnings.catch_warnings():
        if not request.node.get_closest_marker('filterwarnings'): warnings.simplefilter('error', UserWarning)
        yield


def write(p, x, **kw):
    p.parent.mkdir(parents=True, exist_ok=True)
    (x if isinstance(x, Image.Image) else Image.fromarray(x)).save(p, **kw)


def gray(v, h=6, w=5): return np.full((h, w), v, dtype=np.uint8)


def folder(root, n=6, classes=('ant', 'bee'), first=0):
    for c, nm in enumerate(classes):
        for i in range(first, first + n): write(root/nm/f'{i:02}.png', gray(100*c + i))
    return root


def one_sentence(e): assert '\n' not in str(e.value) and len(str(e.value)) < 700


def both(d): return torch.cat([d.raw_train, d.raw_test]), torch.cat([d.y_train, d.y_test])


# ---- folders ----------------------------------------------------------------------------------------------------------

def test_folder_of_classes(tmp_path):
    d = data_from_folder(folder(tmp_path/'bugs', 10))
    assert d.name == 'bugs' and d.classes == ['ant', 'bee'] and d.shape == (1, 6, 5) and (len(d.y_train), len(d.y_test)) == (14, 6)
    seen = torch.cat([d.raw_train, d.raw_test])[:, 0, 0, 0]
    assert sorted(seen.tolist()) == [*range(10), *range(100, 110)] and (torch.cat([d.y_train, d.y_test]) == seen//100).all()
    assert load_data(tmp_path/'bugs', seed=4).raw_test.equal(load_data(str(tmp_path/'bugs'), seed=4).raw_test)


@pytest.mark.parametrize('test', ['test', 'val', 'valid'])
def test_folder_with_test(tmp_path, test):
    folder(tmp_path/'train', 10); folder(tmp_path/test, 3)
    (tmp_path/'.hidden').mkdir(); (tmp_path/'train'/'notes.txt').write_text('x'); (tmp_path/'train'/'ant'/'.x.png').write_text('x')
    d = load_data(tmp_path)
    assert (len(d.y_train), len(d.y_test)) == (20, 6)


def test_folder_with_train_only(tmp_path): assert len(data_from_folder(folder(tmp_path/'train', 10).parent).y_test) == 6


@pytest.mark.filterwarnings('ignore')
def test_folder_modes(tmp_path):
    rgb = np.stack([gray(1), gray(2), gray(3)], -1)
    write(tmp_path/'a'/'0.png', gray(9)); write(tmp_path/'a'/'1.png', np.full((6, 5), 9*256+7, dtype=np.uint16))
    for i in range(2): write(tmp_path/'b'/f'{i}.png', gray(50))
    with pytest.raises(ValueError, match='depth must be given: images of 8 and of 16 bits lie side by side, and the largest number of the latter is 2311'): data_from_folder(tmp_path)
    assert data_from_folder(tmp_path, depth=16).shape == (1, 6, 5)
    d = data_from_folder(tmp_path, channels=3, depth=16)
    seen = (torch.cat([d.raw_train, d.raw_test])[:, 0, 0, 0].double()*65535).round()
    assert d.shape == (3, 6, 5) and set(seen.tolist()) == {9*257, 9*256 + 7, 50*257}     # nothing of the 16 bits is lost
    (tmp_path/'a'/'1.png').unlink()
    for i in (1, 5): write(tmp_path/'a'/f'{i}.png', gray(9))
    write(tmp_path/'b'/'2.png', rgb); write(tmp_path/'b'/'3.png', np.concatenate([rgb, rgb[..., :1]], -1))
    Image.fromarray(rgb).convert('P').save(tmp_path/'b'/'4.png')
    d = data_from_folder(tmp_path)
    assert d.shape == (3, 6, 5)
    x = torch.cat([d.raw_train, d.raw_test])
    assert sum((o[:, 0, 0] == torch.tensor([1, 2, 3])).all() for o in x) >= 1
    assert sum((o[:, 0, 0] >= 253).all() for o in x) == 1     # all but transparent: what is seen is the background
    assert data_from_folder(tmp_path, channels=1).shape == (1, 6, 5)


def test_folder_sizes(tmp_path):
    folder(tmp_path, 10)
    write(tmp_path/'bee'/'big.png', gray(3, 12, 10))
    with pytest.raises(ValueError, match=r'different sizes \(00.png 6x5, big.png 12x10\): pass size='): data_from_folder(tmp_path)
    assert data_from_folder(tmp_path, size=(6, 5)).shape == (1, 6, 5) and load_data(tmp_path, size=4).shape == (1, 4, 4)


@pytest.mark.filterwarnings('ignore')
def test_folder_bad_input(tmp_path):
    with pytest.raises(ValueError, match='is not a folder'): data_from_folder(tmp_path/'none')
    with pytest.raises(ValueError, match='holds no class folders'): data_from_folder(tmp_path)
    folder(tmp_path/'x', 10)
    (tmp_path/'x'/'cow').mkdir()
    with pytest.raises(ValueError, match="class folder .*cow holds no images"): data_from_folder(tmp_path/'x')
    (tmp_path/'x'/'cow'/'bad.png').write_bytes(b'not a picture')
    with pytest.raises(ValueError, match='bad.png cannot be read as an image'): data_from_folder(tmp_path/'x')
    good = (tmp_path/'x'/'ant'/'00.png').read_bytes()
    Image.fromarray(np.random.RandomState(0).randint(256, size=(6, 5)).astype(np.uint8)).save(tmp_path/'x'/'cow'/'bad.png')
    cut = (tmp_path/'x'/'cow'/'bad.png').read_bytes()
    (tmp_path/'x'/'cow'/'bad.png').write_bytes(cut[:50])
    with pytest.raises(ValueError, match='bad.png cannot be read as an image'): data_from_folder(tmp_path/'x')
    (tmp_path/'x'/'cow'/'bad.png').write_bytes(good)
    assert data_from_folder(tmp_path/'x').n_classes == 3
    folder(tmp_path/'y'/'train', 10); folder(tmp_path/'y'/'test', 10, classes=('ant', 'cow'))
    with pytest.raises(ValueError, match="class folder 'cow' that the training folder lacks"): data_from_folder(tmp_path/'y')
    folder(tmp_path/'z'/'test', 10)
    with pytest.raises(ValueError, match="none called 'train'"): data_from_folder(tmp_path/'z')
    folder(tmp_path/'v', 10, classes=('train', 'plane', 'test'))      # vehicles, not splits
    assert data_from_folder(tmp_path/'v').classes == ['plane', 'test', 'train']
    folder(tmp_path/'w'/'train', 10); folder(tmp_path/'w'/'more', 10)
    with pytest.raises(ValueError, match="holds a folder 'train' beside others"): data_from_folder(tmp_path/'w')


def test_floating_point_images(tmp_path):
    for c in 'ab': write(tmp_path/c/'0.tif', np.ones((4, 4), dtype=np.float32)); write(tmp_path/c/'1.tif', np.ones((4, 4), dtype=np.float32))
    with pytest.raises(ValueError, match="mode 'F' cannot be read"): data_from_folder(tmp_path)


# ---- split folders ----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('train, test', [('Training', 'Testing'), ('TRAIN', 'TEST'), ('train', 'validation'), ('train', 'val'), ('training_set', 'test_set'), ('seg_train', 'seg_test'),
                                         ('Train Data', 'Test Data'), ('trainset', 'eval'), ('train', 'dev'), ('Train', 'VALID'), ('training', 'evaluation'), ('train_images', 'test_images')])
def test_split_folders_are_known_by_their_usual_names_in_any_case(tmp_path, train, test):
    folder(tmp_path/'brain'/train, 4); folder(tmp_path/'brain'/test, 3, first=4)
    d = load_data(tmp_path/'brain')
    assert d.classes == ['ant', 'bee'] and (len(d.y_train), len(d.y_test)) == (8, 6)
    assert sorted(d.raw_test[:, 0, 0, 0].tolist()) == [4, 5, 6, 104, 105, 106] and (d.raw_test[:, 0, 0, 0]//100 == d.y_test).all()


@pytest.mark.parametrize('name, split', [('Training', 'train'), ('VAL', 'val'), ('test-set', 'test'), ('train2017', 'train'), ('trains', None), ('contest', None), ('tester', None), ('evaluation_data', 'val'),
                                         ('images', None), ('', None), ('protest', None)])
def test_names_of_splits(name, split): assert split_of(name) == split


def test_test_is_the_test_split_and_val_is_said_to_be_left(tmp_path):
    folder(tmp_path/'train', 4); folder(tmp_path/'valid', 2, first=30); folder(tmp_path/'Test', 3, first=10)
    with pytest.warns(UserWarning, match="'valid' is not used; the test split is 'Test'") as w: d = data_from_folder(tmp_path)
    assert len(w) == 1 and w[0].filename == __file__ and set((d.raw_test[:, 0, 0, 0] % 100).tolist()) == {10, 11, 12} and len(d.y_train) == 8
    folder(tmp_path/'extra', 1)
    with pytest.warns(UserWarning, match="'valid', 'extra' are not used"): data_from_folder(tmp_path)


def test_a_class_called_train_is_no_split(tmp_path):
    folder(tmp_path, classes=('train', 'plane', 'test'))
    assert data_from_folder(tmp_path).classes == ['plane', 'test', 'train']


@pytest.mark.parametrize('make, says', [
    (lambda p: [folder(p/a) for a in ('A', 'B')], "the same sub-folders .'ant', 'bee'. and no images of their own: if they are splits"),
    (lambda p: [folder(p/c, classes=('train', 'test')) for c in ('ant', 'bee')], "the same sub-folders .'test', 'train'."),
    (lambda p: [folder(p/'A', classes=('ant', 'bee')), folder(p/'B', classes=('bee', 'cow'))], "the same sub-folders .'bee'."),
    (lambda p: [folder(p/'archive'/'data'/s) for s in ('train', 'test')], "holds a single folder.*name '.*archive/data'$"),
    (lambda p: folder(p/'archive'/'data'), "holds a single folder.*name '.*archive/data'$"),
    (lambda p: [folder(p/'data'/'Training'), folder(p/'docs', classes=('figures',))], "'data' in it holds a training folder: name '.*data'$"),
    (lambda p: [folder(p/s) for s in ('train', 'Training', 'test')], "two folders for one split, '.rain.*' and '.rain.*'"),
    (lambda p: [folder(p, classes=('train', 'test'))], "images right in 'test', 'train': their classes are not known"),
    (lambda p: [folder(p/'train'), folder(p, classes=('test',))], "holds images without class folders.*name '.*train' to split"),
    (lambda p: [folder(p/'Testing'), folder(p/'more')], "holds a folder 'Testing' but none called 'train'"),
])
def test_layouts_that_are_not_clear_are_refused(tmp_path, make, says):
    make(tmp_path)
    with pytest.raises(ValueError, match=says.replace('/', r'[/\\]')) as e: data_from_folder(tmp_path)
    one_sentence(e)


def test_layouts_that_can_mean_one_thing_are_read(tmp_path):
    for c in 'ab': folder(tmp_path/'one'/c, classes=('images',))     # as Tiny-ImageNet has it
    assert data_from_folder(tmp_path/'one').classes == ['a', 'b']
    folder(tmp_path/'twice'/'training_set'/'training_set', 5); folder(tmp_path/'twice'/'test_set'/'test_set', 2)
    d = data_from_folder(tmp_path/'twice')
    assert (len(d.y_train), len(d.y_test)) == (10, 4) and d.classes == ['ant', 'bee']
    for k, cs in dict(animal=('cat', 'dog'), vehicle=('bus', 'car')).items(): folder(tmp_path/'kinds'/k, classes=cs)     # classes with kinds of their own
    assert data_from_folder(tmp_path/'kinds').classes == ['animal', 'vehicle']
    (tmp_path/'one'/'__MACOSX').mkdir(); (tmp_path/'one'/'.cache').mkdir()
    assert data_from_folder(tmp_path/'one').n_classes == 2


def test_images_beside_class_folders_are_said_to_be_left(tmp_path):
    write(folder(tmp_path)/'sample.png', gray(1))
    with pytest.warns(UserWarning, match="1 images beside the class folders are not read, such as 'sample.png'"): data_from_folder(tmp_path)


def test_class_files_and_a_tree_of_classes_that_are_known(tmp_path):
    files, y, names = class_files(folder(tmp_path))
    assert [f.parent.name for f in files] == ['ant']*6 + ['bee']*6 and y.tolist() == [0]*6 + [1]*6 and names == ['ant', 'bee']
    assert class_files(tmp_path, ['bee', 'cow', 'ant'])[1].tolist() == [2]*6 + [0]*6


# ---- channels --------------------------------------------------------------------------------------------------------

def test_channels():
    d = load_data('digits', size=8, channels=3)
    assert d.shape == (3, 8, 8) and d.raw_train[:, 0].equal(d.raw_train[:, 2])
    rgb = torch.tensor([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]], dtype=torch.uint8)[:, :, None, None]
    assert R.to_channels(rgb, 1).flatten().tolist() == [76, 150, 29, 255]


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


class Pairs(torch.utils.data.Dataset):
    def __init__(self, items): self.items = items
    def __len__(self): return len(self.items)
    def __getitem__(self, i): return self.items[i]


def test_datasets_of_pictures_follow_the_same_rules():
    ims = [(Image.fromarray((np.arange(30).reshape(5, 6)*(100 + i)).astype(np.uint16)), i % 2) for i in range(8)]
    d = data_from_dataset(Pairs(ims), Pairs(ims))
    assert d.raw_train.dtype == torch.float32 and (d.raw_train[3]*4095).round().max() == 29*103 and d.shape == (1, 5, 6)
    assert data_from_dataset(Pairs(ims), size=4, depth=16).shape == (1, 4, 4)
    red = np.zeros((6, 5, 4), np.uint8); red[..., 0] = 255
    d = data_from_dataset(Pairs([(Image.fromarray(red), i % 2) for i in range(8)]))
    assert d.raw_train.eq(255).all()
    buf = io.BytesIO(); note = Image.Exif(); note[0x0112] = 6
    Image.fromarray(gray(9)).save(buf, 'jpeg', exif=note)
    assert data_from_dataset(Pairs([(Image.open(io.BytesIO(buf.getvalue())), np.array([i % 2])) for i in range(8)])).shape == (1, 5, 6)
    mixed = [*ims[:4], *[(Image.fromarray(gray(9, 5, 6)), i % 2) for i in range(4)]]
    with pytest.raises(ValueError, match='depth must be given'): data_from_dataset(Pairs(mixed))
    x, _ = both(data_from_dataset(Pairs(mixed), depth=12))
    assert (x == torch.tensor(9/255)).all((1, 2, 3)).sum() == 4
    for items in ([*ims, (torch.rand(1, 5, 6), 0)], [(torch.rand(1, 5, 6), 0), *ims]):
        with pytest.raises(ValueError, match='beside tensors'): data_from_dataset(Pairs(items))


# ---- datasets ---------------------------------------------------------------------------------------------------------

def test_dataset_forms_agree():
    x, y = tensors(20, (3, 6, 5), k=2)
    hwc = [o.permute(1, 2, 0).numpy() for o in x]
    want = data_from_tensors(x, y)
    for items in ([(Image.fromarray(o), int(k)) for o, k in zip(hwc, y)], [(o, np.int64(k)) for o, k in zip(hwc, y)], list(zip(x, y))):
        d = data_from_dataset(Pairs(items))
        assert d.raw_test.equal(want.raw_test) and d.y_test.equal(want.y_test) and d.name == 'pairs'


def test_dataset_gray_and_sizes():
    ims = [(Image.fromarray(np.full((7+i % 2, 6), 10*i, dtype=np.uint8)), i % 2) for i in range(10)]
    with pytest.raises(ValueError, match=r'different shapes, \(1, 7, 6\) and \(item 1\) \(1, 8, 6\): pass size='): data_from_dataset(Pairs(ims))
    assert data_from_dataset(Pairs(ims), size=8).shape == (1, 8, 8) and data_from_dataset(Pairs(ims), size=(4, 6), channels=3).shape == (3, 4, 6)


def test_dataset_from_torchvision():
    from torchvision import datasets, transforms
    a = datasets.FakeData(24, (3, 8, 8), 3)
    b = datasets.FakeData(24, (3, 8, 8), 3, transform=transforms.ToTensor())
    ys = {int(a[i][1]) for i in range(24)}
    assert ys == {0, 1, 2}
    da, db = data_from_dataset(a, a), data_from_dataset(b, b)
    assert da.raw_train.dtype == torch.uint8 and db.raw_train.dtype == torch.float32 and torch.allclose(da.x_train, db.x_train, atol=1e-5)


def test_dataset_class_names():
    ds = Pairs([(torch.randn(4), i % 2) for i in range(10)])
    ds.classes = ['cat', 'dog']
    assert data_from_dataset(ds).classes == ['cat', 'dog'] and data_from_dataset(torch.utils.data.Subset(ds, range(8))).classes == ['cat', 'dog']
    assert data_from_dataset(ds, classes=['x', 'y'], name='pets').name == 'pets'


@pytest.mark.parametrize('ds,kw,err,words', [
    (Pairs([]), {}, ValueError, 'train_ds is empty'),
    (7, {}, TypeError, 'train_ds must be a map-style Dataset'),
    (iter([]), {}, TypeError, 'train_ds must be a map-style Dataset'),
    (Pairs([torch.zeros(3)]*4), {}, TypeError, r'train_ds must yield pairs \(example, class\)'),
    (Pairs([(torch.zeros(3), .5)]*4), {}, TypeError, 'train_ds must yield classes as whole numbers, got 0.5 as item 0'),
    (Pairs([(torch.zeros(3), 'a')]*4), {}, TypeError, 'whole numbers'),
    (Pairs([('abc', 1)]*4), {}, TypeError, 'an example must be'),
    (Pairs([(torch.zeros(3), 0), (torch.zeros(4), 1)]), {}, ValueError, 'different shapes'),
    (Pairs([(torch.zeros(3), 0), (torch.zeros(3), -1)]), {}, ValueError, 'at least 0'),
    (Pairs([(torch.zeros(1, 3, 3), i % 2) for i in range(9)]), dict(size=5), ValueError, 'size and channels must be left out for examples of torch.float32'),
    (Pairs([(tensors()[0][0], i % 2) for i in range(9)]), dict(size=0), ValueError, 'size must be'),
    (Pairs([(tensors()[0][0], i % 2) for i in range(9)]), dict(channels=2), ValueError, 'channels must be'),
])
def test_dataset_bad_input(ds, kw, err, words):
    with pytest.raises(err, match=words): data_from_dataset(ds, **kw)


# ---- arrays in a file -------------------------------------------------------------------------------------------------

def arrays(n=40, seed=0):
    rng = np.random.RandomState(seed)
    return rng.randint(0, 256, size=(n, 12, 10)).astype(np.uint8), (np.arange(n) % 4).astype(np.uint8)


@pytest.mark.parametrize('save', [np.savez, np.savez_compressed])
@pytest.mark.parametrize('colour', [False, True])
def test_medmnist(tmp_path, save, colour):
    x, y = arrays()
    if colour: x = np.stack([x, 255 - x, x], -1)
    xt, yt = x[::-1], y[::-1]
    save(tmp_path/'bloodmnist.npz', train_images=x, train_labels=y[:, None], val_images=x[:8], val_labels=y[:8, None], test_images=xt, test_labels=yt[:, None])
    with pytest.warns(UserWarning, match="'val_images', 'val_labels' are not used"): d = load_data(tmp_path/'bloodmnist.npz')
    assert d.name == 'bloodmnist.npz' and d.shape == ((3, 12, 10) if colour else (1, 12, 10)) and d.y_train.tolist() == y.tolist() and d.y_test.tolist() == yt.tolist()
    want = torch.from_numpy(x).permute(0, 3, 1, 2) if colour else torch.from_numpy(x)[:, None]
    assert d.raw_train.equal(want) and d.raw_test.equal(want.flip(0)) and d.norm.mean.shape == (3 if colour else 1, 1, 1)


def test_keras_and_plain_names(tmp_path):
    x, y = arrays()
    np.savez(tmp_path/'mnist.npz', x_train=x, y_train=y, x_test=x[:8], y_test=y[:8])
    d = load_data(tmp_path/'mnist.npz')
    assert d.shape == (1, 12, 10) and len(d.y_test) == 8 and d.name == 'mnist.npz'
    assert load_data(tmp_path/'mnist.npz', size=8, channels=3).shape == (3, 8, 8)
    for i, names in enumerate((('x', 'y'), ('X', 'Y'), ('images', 'labels'), ('data', 'target'), ('features', 'targets'))):
        np.savez(tmp_path/f'{i}.npz', **dict(zip(names, (x, y))))
        a = data_from_npz(tmp_path/f'{i}.npz')
        assert sorted(both(a)[0].flatten(1).sum(1).tolist()) == sorted(x.reshape(40, -1).sum(1).tolist()) and len(a.y_test) == 12
    np.savez(tmp_path/'p.npz', x, y)
    assert data_from_npz(tmp_path/'p.npz').shape == (1, 12, 10)
    np.savez(tmp_path/'v.npz', trainX=x, trainY=y, X_val=x[:9], Y_val=y[:9])
    assert len(data_from_npz(tmp_path/'v.npz').y_test) == 9
    np.savez(tmp_path/'w.npz', x=x, y=np.array(['ant', 'bee', 'cow', 'dog'])[y])
    d = data_from_npz(tmp_path/'w.npz')
    assert d.classes == ['ant', 'bee', 'cow', 'dog'] and d.y_train.bincount().tolist() == [7]*4


@pytest.mark.parametrize('make, says', [
    (lambda x, y: dict(a=x, b=y), "must hold arrays called x and y, x_train and y_train, or train_images and train_labels, got 'a', 'b'"),
    (lambda x, y: dict(x=x), "holds 'x', but no labels for it"), (lambda x, y: dict(x_train=x, y_train=y, x_test=x), "holds 'x_test', but no labels"),
    (lambda x, y: dict(x=x, y=y.astype(object)), 'arrays of Python objects are not read'), (lambda x, y: dict(data=x, images=x, target=y), "holds both 'data' and 'images'"),
    (lambda x, y: dict(x=x, y=y[:-1]), 'y_train has 39 labels'), (lambda x, y: dict(x=x, y=np.eye(4)[y]), 'argmax'), (lambda x, y: dict(x_test=x, y_test=y), 'must hold arrays called x and y'),
    (lambda x, y: dict(x=x.astype(str), y=y), 'must hold examples as numbers'), (lambda x, y: dict(x=x*1j, y=y), "holds 'y', but no examples"),
    (lambda x, y: dict(x_train=x[:20], y_train=np.array(list('abcd'))[y][:20], x_test=x, y_test=np.array(list('abce'))[y]), "the class 'e' in its test split alone")])
def test_arrays_that_are_no_set(tmp_path, make, says):
    np.savez(tmp_path/'a.npz', **make(*arrays()))
    with pytest.raises(ValueError, match=says) as e: load_data(tmp_path/'a.npz')
    one_sentence(e)


def test_what_claims_to_be_large_is_not_read(tmp_path):
    x, y = arrays()
    np.savez_compressed(tmp_path/'a.npz', x=np.zeros((200, 100, 100)), y=y)
    with pytest.raises(ValueError, match='unpacked it says it has 16,0.* bytes; at most 1,000,000 are read') as e: npz_arrays(tmp_path/'a.npz', 10**6)
    one_sentence(e)
    np.savez(tmp_path/'b.npz', x=x, o=np.array([{}], dtype=object))
    assert set(npz_arrays(tmp_path/'b.npz', 10**6)) == {'x'}
    (tmp_path/'c.npz').write_bytes(b'PK\3\4 no archive')
    with pytest.raises(ValueError, match='cannot be read as arrays'): load_data(tmp_path/'c.npz')
    with pytest.raises(FileNotFoundError, match='there is no file'): npz_arrays(tmp_path/'none.npz', 1)


# ---- tables -----------------------------------------------------------------------------------------------------------

def flowers(n=30, seed=0):
    rng = np.random.RandomState(seed)
    return rng.randn(n, 3).round(3)*[1, 10, 100], ['setosa', 'virginica', 'ruby'], np.arange(n) % 3


def lines(x, labels, sep=',', first=False, cell=str):
    return [sep.join([str(k), *map(cell, r)] if first else [*map(cell, r), str(k)]) for r, k in zip(x.tolist(), labels)]


def check(d, x, y, names):
    "That a set holds these rows and labels."
    got, gy = both(d)
    assert len(got) == len(x) and d.classes == names
    want = sorted((*np.float64(r).round(4).tolist(), int(k)) for r, k in zip(x, y))
    assert np.allclose(sorted((*r, int(k)) for r, k in zip(got.double().numpy().round(4).tolist(), gy)), want, atol=1e-3)


@pytest.mark.parametrize('sep', [',', ';', '\t', '|'])
@pytest.mark.parametrize('head', [True, False])
@pytest.mark.parametrize('words', [True, False])
def test_tables_with_and_without_header(tmp_path, sep, head, words):
    x, names, y = flowers()
    text = ([sep.join(('length', 'width', 'weight', 'species'))] if head else []) + lines(x, [names[k] for k in y] if words else y, sep)
    p = tmp_path/('a.tsv' if sep == '\t' else 'a.csv')
    p.write_text('\n'.join(text) + '\n')
    order = [1, 2, 0]
    check(load_data(p), x, [order[k] for k in y] if words else y, ['ruby', 'setosa', 'virginica'] if words else ['0', '1', '2'])
    assert load_data(p, seed=3).raw_test.equal(data_from_table(p, seed=3).raw_test)


def test_the_class_column(tmp_path):
    x, names, y = flowers()
    p = tmp_path/'a.csv'
    p.write_text('label,a,b,c\n' + '\n'.join(lines(x, y, first=True)))
    check(load_data(p), x, y, ['0', '1', '2'])
    p.write_text('\n'.join(lines(x, [names[k] for k in y], first=True)))      # the only column of words
    assert load_data(p).classes == sorted(names)
    p.write_text('a,b,c,kind\n' + '\n'.join(lines(x, y + 5)))
    check(load_data(p, target='kind'), x, y, ['5', '6', '7'])
    check(load_data(p), x, y, ['5', '6', '7'])
    check(load_data(p, target=-1), x, y, ['5', '6', '7'])
    for target, says in (('kin', "target must be one of the columns 'a', 'b', 'c', 'kind', got 'kin'"), (7, 'target must be a column from 0 to 3'), ('a', 'a class must be a word or a whole number')):
        with pytest.raises(ValueError, match=says): load_data(p, target=target)
    p.write_text('a,class,c,target\n' + '\n'.join(lines(x, y)))
    with pytest.raises(ValueError, match="the columns 'class', 'target' could all be the class"): load_data(p)
    p.write_text('a,b,c,d\n' + '\n'.join(lines(x, x[:, 0])))
    with pytest.raises(ValueError, match='target must be given'): load_data(p)


def test_the_header_is_asked_about_where_contents_cannot_tell(tmp_path):
    x, names, y = flowers()
    p = tmp_path/'a.csv'
    p.write_text('0,1,2,3\n' + '\n'.join(lines(x, y)))       # pandas' names of unnamed columns, or an example
    with pytest.raises(ValueError, match="header must be given for .*, whose first line reads '0', '1', '2', '3': True if") as e: load_data(p)
    one_sentence(e)
    check(load_data(p, header=True), x, y, ['0', '1', '2'])
    with pytest.warns(UserWarning, match="a.csv has class '3' with a single training example; class '3' with no test example$"): assert len(both(load_data(p, header=False, test_frac=.2))[1]) == 31
    p.write_text('0,1,2,species\n' + '\n'.join(lines(x, [names[k] for k in y])))
    assert len(both(load_data(p))[1]) == 30
    p.write_text(',0,1,2,3\n' + '\n'.join(f'{i},{row}' for i, row in enumerate(lines(x, y))))
    with pytest.warns(UserWarning, match="column '' counts the rows and is left out"): check(load_data(p), x, y, ['0', '1', '2'])
    p.write_text('# a,b,c,label\n' + '\n'.join(lines(x, y)))
    check(load_data(p), x, y, ['0', '1', '2'])


def test_marks_quotes_spaces_and_line_ends(tmp_path):
    x, names, y = flowers()
    body = '\r\n'.join(lines(x, [f'"{names[k]}, wild"' for k in y], sep=' , ', cell='"{}"'.format))
    (tmp_path/'a.csv').write_bytes(b'\xef\xbb\xbf"a" , "b" , "c" , "class"\r\n' + body.encode() + b'\r\n\r\n')
    check(load_data(tmp_path/'a.csv'), x, [[1, 2, 0][k] for k in y], sorted(f'{n}, wild' for n in names))


@pytest.mark.parametrize('row, says', [
    ('1.5,,3,a', "line 4, column 'w': a value is missing"), ('1.5,NA,3,a', "line 4, column 'w': a value is missing .'NA'."), ('1.5,nan,3,a', "column 'w': a value is missing"), ('1,?,3,a', "a value is missing"),
    ('1.5,blue,3,a', "line 4, column 'w': 'blue' is text, and only the class may be text"), ('1.5,inf,3,a', "column 'w': 'inf' is not finite"), ('1.5,1e999,3,a', "column 'w': '1e999' is"),
    ('1.5,1_000,3,a', "column 'w': '1_000' is text"), ('1,2,3', 'line 4: 3 cells, where the first line has 4'), ('1,2,3,a,5', 'line 4: 5 cells'), ('1,2,3,', "column 'class': the class is missing"),
    ('1,"2,5",3,a', "'2,5' has a decimal comma"), ('1,0x10,3,a', "'0x10' is text")])
def test_tables_are_refused_with_line_and_column(tmp_path, row, says):
    rows = ['l,w,h,class', '1,2,3,a', '2,3,4,b', row] + ['4,5,6.5,a', '5,6,7,b']*20
    (tmp_path/'a.csv').write_text('\n'.join(rows))
    with pytest.raises(ValueError, match=says) as e: load_data(tmp_path/'a.csv')
    one_sentence(e)
    rows.append(rows.pop(3)); rows = [rows[0]] + rows[1:3]*600 + rows[3:]       # beyond the sample, too
    (tmp_path/'a.csv').write_text('\n'.join(rows))
    with pytest.raises(ValueError, match=says.replace('line 4', f'line {len(rows)}')): load_data(tmp_path/'a.csv')


@pytest.mark.parametrize('text, says', [
    ('', 'holds no rows|must hold columns'), ('a\n1\n2\n', 'must hold columns between'), ('1,5;2,5;a\n2,5;3,5;b\n'*5, 'decimal comma'), ('a,b,label\n1,2,3\n', 'single class|single row'),
    ('a,a,label\n' + '1,2,3\n3,4,5\n'*4, "names two columns 'a'"), ('a,label\n' + '1,x\n2,x\n'*4, 'single class'), ('label\n', 'must hold columns'), ('label,b\n' + '1,a b c\n', 'two classes'),
    ('a,b,city,label\n' + '1,2,rome,0\n3,4,oslo,1\n'*4, "column 'city': 'rome' is text")])
def test_files_that_are_no_table(tmp_path, text, says):
    (tmp_path/'a.csv').write_text(text)
    with pytest.raises(ValueError, match=says) as e: load_data(tmp_path/'a.csv')
    one_sentence(e)


def test_files_of_another_encoding_or_kind(tmp_path):
    (tmp_path/'a.csv').write_bytes('a,b,label\n1,2,\xe9\n'.encode('latin-1'))
    with pytest.raises(ValueError, match='must be a text file in UTF-8'): load_data(tmp_path/'a.csv')
    (tmp_path/'a.csv').write_bytes(b'a,b\0,label\n')
    with pytest.raises(ValueError, match='bytes that are no text'): load_data(tmp_path/'a.csv')
    with pytest.raises(FileNotFoundError): data_from_table(tmp_path/'none.csv')
    for kw, says in ((dict(sep=';;'), 'sep must be one character'), (dict(target=1.5), 'target must be')):
        (tmp_path/'a.csv').write_text('a,b,label\n' + '1,2,0\n3,4,1\n'*4)
        with pytest.raises((ValueError, TypeError), match=says): load_data(tmp_path/'a.csv', **kw)
    with pytest.raises(TypeError, match='headers must be left out for .*its reader takes target, header'): load_data(tmp_path/'a.csv', headers=True)
    with pytest.raises(TypeError, match="header must be left out for the set 'digits'"): load_data('digits', header=True)
    with pytest.raises(ValueError, match='size, zca and channels must be left out'): load_data(tmp_path/'a.csv', size=8)


@pytest.mark.parametrize('kind', ['seconds', 'milliseconds', 'nanoseconds'])
def test_unix_times_stay_apart_in_every_door(tmp_path, kind):
    "1,400 times within an hour are 1,400 values after normalisation, from a tensor, an array, an .npz and a .csv file."
    rng = np.random.RandomState(0)
    t = 1_764_000_000 + np.sort(rng.choice(3_600_000, 1400, replace=False))/1000
    t = dict(seconds=t, milliseconds=(t*1000).round().astype(np.int64), nanoseconds=(t*1000).round().astype(np.int64)*10**6)[kind]
    x, y = np.stack([t, rng.permutation(t)], 1), np.arange(1400) % 2
    np.savez(tmp_path/'a.npz', x=x, y=y)
    with open(tmp_path/'a.csv', 'w') as f:
        f.write('a,b,label\n')
        for (a, b), k in zip(x.tolist(), y): f.write(f'{a!r},{b!r},{k}\n')
    for d in (data_from_tensors(torch.from_numpy(x), y), data_from_tensors(x, y), load_data(tmp_path/'a.npz'), load_data(tmp_path/'a.csv')):
        z = torch.cat([d.x_train, d.x_test])
        assert z.dtype == torch.float32 and len(z[:, 0].unique()) == len(z[:, 1].unique()) == 1400 and d.norm.dtype == torch.float32
        assert abs(d.x_train.mean()) < 1e-3 and abs(d.x_train.std() - 1) < 1e-2
        want = (x[:, 0].astype(np.float64) - x[:, 0].astype(np.float64).mean())
        assert np.corrcoef(np.sort(z[:, 0].numpy()), np.sort(want))[0, 1] > .999999


def test_whole_numbers_that_floats_cannot_tell_apart_are_refused():
    x = 2**62 + np.arange(40)[:, None]
    with pytest.raises(ValueError, match='x_train holds whole numbers as large as .* subtract the smallest first'): data_from_tensors(x, np.arange(40) % 2)
    assert len(data_from_tensors(x - 2**62, np.arange(40) % 2).x_train.unique()) == 28


# ---- sentences --------------------------------------------------------------------------------------------------------

BODY = [(f'the {a} is {b}', k) for a, b, k in (('cat', 'asleep', 'animal'), ('bus', 'late', 'machine'), ('dog', 'hungry', 'animal'), ('jet', 'loud', 'machine'))]*8


def sentences(head=None, swap=False, sep='\t', q=''): return '\n'.join(sep.join(r[::-1] if swap else r) for r in ([head] if head else []) + [(k, q + t + q) for t, k in BODY]) + '\n'


@pytest.mark.parametrize('head', [('label', 'sentence'), ('Label', 'Text'), ('category', 'review'), ('class', 'x')])
@pytest.mark.parametrize('swap', [False, True])
@pytest.mark.parametrize('ending', ['.tsv', '.csv'])
def test_a_header_of_sentences_is_known(tmp_path, head, swap, ending):
    p = tmp_path/f'a{ending}'
    p.write_text(sentences(head, swap, '\t' if ending == '.tsv' else ','))
    d = load_data(p)
    assert d.classes == ['animal', 'machine'] and len(d.y_train) + len(d.y_test) == 32 and 'label' not in d.norm.words and 'cat' in d.norm.words
    assert d.counts.tolist() == [11, 11]


@pytest.mark.parametrize('ending', ['.tsv', '.csv'])
def test_a_first_line_with_a_class_of_its_own_is_asked_about(tmp_path, ending):
    p = tmp_path/f'a{ending}'
    p.write_text(sentences(('kind', 'words that were said'), sep='\t' if ending == '.tsv' else ','))
    with pytest.raises(ValueError, match="header must be given for .*: no other line has the class 'kind' of the first") as e: load_data(p)
    one_sentence(e)
    assert load_data(p, header=True).n_classes == 2
    with pytest.warns(UserWarning) as w: d = load_data(p, header=False)
    assert d.classes == ['animal', 'kind', 'machine'] and [str(v.message).split(' has ')[1].split('; from 1')[0] for v in w] == ["class 'kind' with a single training example; class 'kind' with no test example"]


def test_files_of_sentences_without_header(tmp_path):
    for name, kw in (('a.tsv', {}), ('b.csv', dict(sep=',')), ('c.csv', dict(sep=';')), ('d.csv', dict(sep=',', q='"')), ('e.csv', dict(sep=',', swap=True))):
        (tmp_path/name).write_text(sentences(**kw))
        d = load_data(tmp_path/name)
        assert d.counts.tolist() == [11, 11] and d.shape == (20, min(100, d.shape[1])) and 'hungry' in d.norm.words, name
        assert load_text(tmp_path/name).y_test.equal(d.y_test) and load_data(tmp_path/name, length=7).shape[0] == 7
    (tmp_path/'q.tsv').write_text(sentences().replace('the cat', 'the "cat'))        # a quote is a quote there
    assert '"' in load_data(tmp_path/'q.tsv').norm.words
    (tmp_path/'n.tsv').write_text('\n'.join(f'{i % 2}\t{t}' for i, (t, _) in enumerate(BODY)))
    assert load_data(tmp_path/'n.tsv').classes == ['0', '1']
    (tmp_path/'t.tsv').write_text('\n'.join(f'{i/7:.3f}\t{"ab"[i % 2]}' for i in range(20)))       # numbers and a class
    assert load_data(tmp_path/'t.tsv').shape == (1,)
    with pytest.raises(ValueError, match='size, zca and channels must be left out'): load_data(tmp_path/'a.tsv', zca=True)


# ---- names and paths --------------------------------------------------------------------------------------------------

def test_a_folder_called_like_a_known_set(tmp_path, monkeypatch):
    folder(tmp_path/'digits'); folder(tmp_path/'trec')
    monkeypatch.chdir(tmp_path)
    with pytest.warns(UserWarning, match="'digits' is taken for the data set of that name, not for the folder here: that is './digits'") as w: d = load_data('digits', size=8)
    assert len(w) == 1 and w[0].filename == __file__ and d.n_classes == 10 and d.name == 'digits'
    d = load_data('./digits')
    assert d.n_classes == 2 and d.name == './digits'     # so that whoever looks for it by its name finds it again
    assert load_data(tmp_path/'digits').classes == load_data(d.name).classes == ['ant', 'bee'] and load_data('./trec').name == './trec'
    with pytest.raises(FileNotFoundError), pytest.warns(UserWarning, match="that is './trec'"): load_data('trec', root=tmp_path/'none')


def test_load_data_alone_reads_every_kind(tmp_path):
    folder(tmp_path/'bugs'); x, y = arrays(); np.savez(tmp_path/'a.npz', x=x, y=y); (tmp_path/'a.tsv').write_text(sentences()); (tmp_path/'b.csv').write_text('1,2,a\n3,4,b\n'*5)
    code = f"from dd_nb.data import load_data\nprint(*[load_data({str(tmp_path)!r} + n).n_classes for n in ('/bugs', '/a.npz', '/a.tsv', '/b.csv')])"
    run = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert run.stdout.split() == ['2', '4', '2', '2'], run.stderr
    (tmp_path/'a.xyz').write_text('x')
    with pytest.raises(ValueError, match='or a file that ends in .csv, .npz, .tsv, got'): load_data(tmp_path/'a.xyz')


def test_the_command_says_which_digits_it_takes(tmp_path):
    folder(tmp_path/'digits')
    run = subprocess.run([sys.executable, '-c', 'from dd_nb.cli import dd_distill; dd_distill()', 'digits', '--iters', '1', '--net', 'MLP', '--quiet', '--size', '8'], capture_output=True, text=True, cwd=tmp_path)
    warned = [line for line in run.stderr.splitlines() if line.startswith('warning')]
    assert run.returncode == 0 and warned == ["warning: 'digits' is taken for the data set of that name, not for the folder here: that is './digits'"], run.stderr


def test_public_names():
    assert set(R.__all__) == {'data_from_folder', 'data_from_dataset', 'data_from_npz', 'data_from_table'}
