"""Folders, tables, arrays and sentences as people lay them out, each with what must be read from it, for tools/soak.py.

Every maker draws a layout, writes it, and returns a function that reads it and the examples that were written, as lists of (example, class), one a split. Where
the layout can mean several things, or is spoilt on purpose, it raises `Unclear` with that function: then it must be refused.
"""
import random
import shutil

import numpy as np
import torch
from PIL import Image

from dd_nb.readers import data_from_folder
from dd_nb.data import data_from_tensors,load_data

UNTURN = {2: 'FLIP_LEFT_RIGHT', 3: 'ROTATE_180', 4: 'FLIP_TOP_BOTTOM', 5: 'TRANSPOSE', 6: 'ROTATE_90', 7: 'TRANSVERSE', 8: 'ROTATE_270'}
SPLITS = [('train', 'test'), ('Training', 'Testing'), ('TRAIN', 'VAL'), ('train', 'validation'), ('training_set', 'test_set'), ('Train', 'valid'),
          ('seg_train', 'seg_test')]


class Unclear(Exception): "What was made can mean several things: it is to be refused."


class Dice(random.Random):
    "Random numbers of Python and of NumPy from one seed."
    def __init__(self, seed):
        super().__init__(seed)
        self.np = np.random.RandomState(self.randrange(2**32))


# ---------------------------------------------------------------------------------------------- folders of images

def save_turned(im, path, o, **kw):
    "Save an upright image so that it lies as EXIF's orientation `o` says."
    if o > 1:
        note = Image.Exif()
        note[0x0112] = o
        im, kw = im.transpose(getattr(Image.Transpose, UNTURN[o])), kw | dict(exif=note)
    im.save(path, **kw)


def draw_picture(dice, path, kind, top, background):
    "Write a random image of 5 x 4; returns what is to be seen as (channels, 5, 4), with 16 bits as they are."
    path.parent.mkdir(parents=True, exist_ok=True)
    o = dice.choice([1, 1, 2, 3, 4, 5, 6, 7, 8])
    if kind == 'deep':
        x = dice.np.randint(0, top + 1, (5, 4)).astype(np.uint16)
        path = path.with_suffix(dice.choice(['.png', '.tif', '.pgm']))
        if path.suffix == '.pgm': path.write_bytes(b'P5 4 5 65535 ' + x.astype('>u2').tobytes())
        else: save_turned(Image.fromarray(x), path, o)
        return x[None]
    if kind == 'gray':
        x = dice.np.randint(0, 256, (5, 4)).astype(np.uint8)
        save_turned(Image.fromarray(x), path.with_suffix(dice.choice(['.png', '.PNG', '.tif'])), o)
        return x[None]
    if kind == 'palette':
        colours, x, clear = dice.np.randint(0, 256, (256, 3)), dice.np.randint(0, 9, (5, 4)), dice.choice([None, 3])
        im = Image.fromarray(x.astype(np.uint8)).convert('P')
        im.putpalette(colours.flatten().tolist())
        save_turned(im, path.with_suffix('.png'), o, **({} if clear is None else dict(transparency=clear)))
        seen = colours[x]
        if clear is not None: seen[x == clear] = background
        return seen.transpose(2, 0, 1)
    x = dice.np.randint(0, 256, (5, 4, 4 if kind == 'alpha' else 3)).astype(np.uint8)
    if kind == 'alpha': x[..., 3] = (x[..., 3] > 90)*255
    save_turned(Image.fromarray(x), path.with_suffix(dice.choice(['.png', '.tif'])), o)
    seen = x[..., :3].copy()
    if kind == 'alpha': seen[x[..., 3] == 0] = background
    return seen.transpose(2, 0, 1)


def random_folder(dice, place):
    "A folder of image folders."
    kinds = dice.choice([['gray'], ['gray'], ['deep'], ['deep'], ['rgb'], ['alpha'], ['palette'], ['gray', 'rgb', 'alpha', 'palette'], ['gray', 'deep']])
    top = dice.choice([9, 255, 256, 1000, 4095, 5000, 16383, 30000, 65535])
    background = dice.choice([255, 0, 77])
    classes = dice.sample(['ant', 'bee', 'cow', 'dog', 'train', 'Test', '00001', 'b b'], dice.randint(2, 4))
    split, wrapped = dice.choice([None, *SPLITS]), dice.random() < .1
    if dice.random() < .1: split = 'site A', 'site B'
    root = place/'set'/'inner' if wrapped else place/'set'
    written = {}
    for name in split or ['']:
        for c in classes:
            for i in range(3):
                kind = dice.choice(kinds)
                x = draw_picture(dice, root/name/c/f'{dice.randrange(10**6)}-{i}', kind, top, background)
                written.setdefault(name, []).append((x, kind, c))
    everything = [w for ws in written.values() for w in ws]
    used = {kind for _, kind, _ in everything}
    highest = max([int(x.max()) for x, kind, _ in everything if kind == 'deep'], default=0)
    white = next(2**b - 1 for b in (8, 10, 12, 14, 16) if highest < 2**b)
    def read(): return data_from_folder(place/'set', background=background)
    if wrapped or split == ('site A', 'site B') or len(used) > 1 and 'deep' in used and 255 < highest < 2**14: raise Unclear(read)
    if not split and {c.lower() for c in classes} <= {'train', 'test'}: raise Unclear(read)   # two splits without classes
    floats, colour = 'deep' in used and white > 255, used - {'gray', 'deep'}
    def seen(x, kind):
        x = x.astype(np.float64)/((white if kind == 'deep' else 255) if floats else 1)
        return np.repeat(x, 3, 0) if colour and len(x) == 1 else x
    return read, [[(seen(x, kind), c) for x, kind, c in ws] for ws in written.values()]


# ---------------------------------------------------------------------------------------------- tables, arrays, sentences

def random_table(dice, place):
    "A table of numbers and a class in a .csv or .tsv file."
    n, k = dice.randint(12, 40), dice.randint(1, 5)
    classes = dice.choice([['yes', 'no'], ['a b', 'c', 'd'], [0, 1], [3, 7, 9], ['1st', '2nd']])
    x = dice.np.randn(n, k).round(4)*[dice.choice([1e-3, 1, 1e4]) for _ in range(k)]
    if dice.random() < .3: x[:, 0] = 1_764_000_000 + dice.np.permutation(3600*1000)[:n]/1000
    if dice.random() < .2: x[:, -1] = dice.np.randint(0, 99, n)
    y = [classes[i % len(classes)] for i in range(n)]
    dice.shuffle(y)
    header, sep = dice.random() < .6, dice.choice([',', ',', ';', '\t', '|'])
    at = dice.randint(0, k) if header else k
    names = [f'col {j}' for j in range(k)]
    names.insert(at, dice.choice(['label', 'Class', 'TARGET', 'y', 'species']))
    def cell(v): return f'"{v}"' if dice.random() < .1 and sep != '\t' else str(v)
    rows = [[cell(repr(float(v))) for v in r] for r in x]
    for r, c in zip(rows, y): r.insert(at, cell(c))
    spoil = dice.choice([None]*5 + ['missing', 'text', 'ragged', 'comma', 'latin'])
    i, j = dice.randrange(n), dice.choice([c for c in range(k + 1) if c != at])
    if spoil == 'missing': rows[i][j] = dice.choice(['NA', 'nan', '?', 'null'])
    if spoil == 'text': rows[i][j] = dice.choice(['blue', '1 2', '0x1F', '1_000', '12-03-2024'])
    if spoil == 'ragged': rows[i].append('7')
    if spoil == 'comma': rows[i][j] = '"3,5"'
    if header and not spoil and dice.random() < .2:   # as pandas writes its index
        names.insert(0, '')
        for i, r in enumerate(rows): r.insert(0, str(i))
    end = dice.choice(['\n', '\r\n'])
    text = end.join(sep.join(r) for r in ([names] if header else []) + rows) + dice.choice(['', end, end*2])
    path = place/('a.tsv' if sep == '\t' else 'a.csv')
    path.write_bytes((b'\xef\xbb\xbf' if dice.random() < .2 else b'') + text.encode() + (b'\xe9' if spoil == 'latin' else b''))
    def read(): return load_data(path)
    if spoil: raise Unclear(read)
    return read, [[(r, str(c)) for r, c in zip(x, y)]]


def random_arrays(dice, place):
    "Arrays, by hand or in an .npz file."
    n, classes = dice.randint(20, 40), dice.randint(2, 4)
    shape = dice.choice([(3,), (5, 7), (9, 12), (1, 8, 9), (3, 8, 8), (8, 9, 3), (9, 8, 4), (2, 3, 4, 5)])
    dtype = dice.choice(['u1', 'u1', 'f4', 'f8', 'i8', 'i2', 'u2', '?'])
    x = dice.np.randint(0, 2 if dtype == '?' else 200, (n, *shape)).astype(dtype)
    if dtype in ('f4', 'f8'): x = (x/dice.choice([1, 200]) - dice.choice([0, .4])).astype(dtype)
    if dtype == 'i8' and dice.random() < .7: x = x + dice.choice([1_764_000_000_000, 1_764_000_000, -2**40])
    y = np.arange(n) % classes
    dice.np.shuffle(y)
    want = x
    if x.ndim == 3 and min(shape) >= 8 and dtype == 'u1': want = x[:, None]
    if x.ndim == 4 and shape[2] in (3, 4) and shape[0] > 4 and (dtype == 'u1' or shape[2] == 3): want = x.transpose(0, 3, 1, 2)
    spoil = dice.choice([None]*5 + ['one-hot', 'fractions', 'short', 'gap'])
    labels = y.astype(dice.choice(['u1', 'i4', 'i8']))
    labels = dict([('one-hot', np.eye(classes)[y]), ('fractions', y + .5), ('short', labels[1:]), ('gap', labels + 1)]).get(spoil, labels)
    if spoil is None and dice.random() < .4: labels = labels[:, None]
    parts = [[(v, str(c)) for v, c in zip(want, y)]]
    if dice.random() < .4:
        as_tensor = dice.random() < .5
        def read(): return data_from_tensors(torch.from_numpy(x) if as_tensor else x, labels)
    else:
        names = dice.choice([('x', 'y'), ('images', 'labels'), ('data', 'target'), ('x_train', 'y_train', 'x_test', 'y_test'),
                             ('train_images', 'train_labels', 'test_images', 'test_labels')])
        arrays = dict(zip(names, (x, labels, x[::-1], labels[::-1])))
        if len(names) == 4: parts.append(parts[0][::-1])
        if dice.random() < .15: del arrays[names[1]]; spoil = 'no labels'
        dice.choice([np.savez, np.savez_compressed])(place/'a.npz', **arrays)
        def read(): return load_data(place/'a.npz')
    if spoil: raise Unclear(read)
    return read, parts


def random_sentences(dice, place):
    "A file of sentences, with a header or none: instead of examples, the class of each."
    n, classes = dice.randint(16, 40), dice.choice([['good', 'bad'], ['0', '1', '2']])
    y = [classes[i % len(classes)] for i in range(n)]
    said = [f'{dice.choice(["the", "a"])} {dice.choice(["film", "play"])} of "{dice.choice(["rome", "lima"])}" {i}' for i in range(n)]
    head = dice.choice([None, ('label', 'sentence'), ('Category', 'text'), ('kind', 'what was said')])
    swapped, csv = dice.random() < .4, dice.random() < .5
    if csv: said = ['"' + s.replace('"', '""') + '"' for s in said]
    rows = ([head] if head else []) + list(zip(y, said))
    path = place/f'a.{"csv" if csv else "tsv"}'
    path.write_text('\n'.join((',' if csv else '\t').join(r[::-1] if swapped else r) for r in rows) + '\n')
    def read(): return load_data(path)
    if head and head[0] == 'kind': raise Unclear(read)
    return read, y


MAKERS = random_folder, random_table, random_arrays, random_folder, random_table, random_arrays, random_sentences


# ---------------------------------------------------------------------------------------------- what was read

def as_rows(x, y, names=None):
    "Examples and classes as sorted tuples of numbers and a name."
    return sorted((*np.asarray(v, dtype=np.float64).flatten().round(4).tolist(), names[int(c)] if names else c) for v, c in zip(x, y))


def check_read(data, parts):
    "Raise AssertionError unless `data` holds the examples and classes of `parts`, and normalisation keeps apart what differs."
    splits = [(data.raw_train, data.y_train), (data.raw_test, data.y_test)]
    if len(parts) == 1: splits = [tuple(torch.cat(o) for o in zip(*splits))]
    for (x, y), part in zip(splits, parts):
        got, want = as_rows(x.double().numpy(), y, data.classes), as_rows(*zip(*part))
        same = len(got) == len(want) and all(a[-1] == b[-1] and np.allclose(a[:-1], b[:-1], rtol=1e-6, atol=1e-3) for a, b in zip(got, want))
        assert same, f'other examples or labels in {data}: {got[0][-3:]} for {want[0][-3:]}'
    z = torch.cat([data.x_train, data.x_test])
    assert z.isfinite().all() and abs(data.x_train.mean()) < .01, f'{data} is not normalised'
    if z.dim() == 2:
        x = np.array([v for part in parts for v, _ in part])
        for j in range(z.shape[1]): assert len(z[:, j].unique()) == len(np.unique(x[:, j])), f'values of column {j} fell together in {data}'


def one_layout(i, work):
    "Make the i-th layout and read it. Returns 'read' or 'refused', or raises AssertionError."
    place = work/f'layout-{i}'
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    try:
        try: read, parts = MAKERS[i % len(MAKERS)](Dice(f'layout {i}'), place)
        except Unclear as e:
            try: data = e.args[0]()
            except (ValueError, TypeError) as said:
                assert '\n' not in str(said) and 20 < len(str(said)) < 900, f'not one sentence: {said}'
                return 'refused'
            raise AssertionError(f'what is unclear was read: {data}') from None
        data = read()
        if isinstance(parts[0], str):
            got = torch.cat([data.y_train, data.y_test]).bincount().tolist()
            assert data.classes == sorted(set(parts)) and got == [parts.count(c) for c in data.classes], f'{got} of {data.classes}'
        else: check_read(data, parts)
        return 'read'
    finally: shutil.rmtree(place, ignore_errors=True)
