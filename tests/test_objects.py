"Data that lie in memory: arrays, frames, data sets of torch and of Hugging Face."
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Subset, TensorDataset

from dd_nb.all import load_data
from dd_nb.core import BadArgument


class Frame:
    "What a pandas frame can do that is asked of it."
    def __init__(self, text): self.text, self.columns = text, text.split('\n')[0].split(',')
    def to_csv(self, path, index): path.write_text(self.text)


class Polar:
    def __init__(self, text): self.text, self.columns = text, text.split('\n')[0].split(',')
    def write_csv(self, path): path.write_text(self.text)


ROWS = '\n'.join(['a,b,kind,price', *(f'{i*.37 % 1:.3f},{i*.71 % 1:.3f},{"xyz"[i % 3]},{i*1.5}' for i in range(30))])


class Names:
    def __init__(self, names): self.names = names
class Other: pass
Picture = type('Image', (), {})


class HF:
    "What a Hugging Face data set can do that is asked of it."
    def __init__(self, n=12, features=None):
        self.n = n
        self.features = features or dict(image=Picture(), label=Names(['cat', 'dog']), id=Other())
        self.column_names = list(self.features)
    def __len__(self): return self.n
    def __getitem__(self, i): return dict(image=Image.fromarray(np.full((6, 6, 3), 20*i % 255, np.uint8)), label=i % 2, id=i, second=1 - i % 2)


def test_a_pair_of_arrays():
    x, y = np.random.RandomState(0).rand(30, 4), np.arange(30) % 3
    d = load_data((x, y), called='mine')
    assert d.name == 'mine' and d.n_classes == 3 and len(d.y_train) + len(d.y_test) == 30
    assert len(load_data((x, y, x[:7], y[:7])).y_test) == 7
    assert load_data((torch.tensor(x), torch.tensor(x[:, 0])), task='numbers').task == 'numbers'
    with pytest.raises(BadArgument, match=r'data must be \(x, y\)'): load_data((x, y, x))


@pytest.mark.parametrize('kind', [Frame, Polar])
def test_a_frame_is_a_table(kind):
    f = kind(ROWS)
    d = load_data(f, target='kind')
    assert d.classes == ['x', 'y', 'z'] and d.shape == (3,) and d.name == 'frame'
    n = load_data(kind('\n'.join(','.join(r.split(',')[:2] + r.split(',')[3:]) for r in ROWS.split('\n'))), task='numbers', target='price', called='h')
    assert n.task == 'numbers' and n.classes == ['price'] and n.name == 'h'
    with pytest.raises(ValueError, match="column 'b': a value is missing"): load_data(kind(ROWS.replace('0.710', '')), target='kind')


def test_hugging_face():
    d = load_data(HF())
    assert d.classes == ['cat', 'dog'] and d.shape == (3, 6, 6)
    d = load_data(dict(train=HF(12), validation=HF(6)), size=4)
    assert len(d.y_train) == 12 and len(d.y_test) == 6 and d.shape == (3, 4, 4)
    two = HF(features=dict(image=Picture(), label=Names(['cat', 'dog']), second=Names(['a', 'b'])))
    with pytest.raises(BadArgument, match='target must name one of the features image, label, second'): load_data(two)
    assert load_data(two, target='second').classes == ['a', 'b']
    with pytest.raises(BadArgument, match="target must be one of the features"): load_data(two, target='third')
    with pytest.raises(BadArgument, match="hold a split called 'train'"): load_data(dict(test=HF()))


def test_data_sets_of_torch():
    x, y = torch.randn(30, 4), torch.arange(30) % 3
    ds = TensorDataset(x, y)
    assert load_data(ds).n_classes == 3
    assert len(load_data((Subset(ds, range(24)), Subset(ds, range(24, 30)))).y_test) == 6


@pytest.mark.parametrize('what', [3, None, 2.5, object(), iter([])])
def test_what_is_none_of_these(what):
    with pytest.raises(TypeError, match='name must be the name of a data set, a path, a pair of arrays'): load_data(what)


def test_an_argument_that_means_nothing_there_is_refused():
    with pytest.raises(TypeError): load_data((torch.randn(9, 2), torch.arange(9) % 3), size=3)
