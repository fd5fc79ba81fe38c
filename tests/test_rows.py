"Room `tables`: separators, headers, classes and numbers by contents; files of sentences."
import numpy as np
import pytest
import torch

from dd_nb import rows as T
from dd_nb.data import data_from_tensors,load_data
from dd_nb.rows import data_from_table
from dd_nb.text import load_text
from test_readers import both,every_warning_is_an_error,one_sentence   # noqa: F401


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


def test_public_names(): assert T.__all__ == ['data_from_table']
