"Text: words and their vectors, files of sentences, and gradients through networks for them."
import random

import pytest
import torch
from torch import nn

from dd_nb.normalise import Vectors,norm_from_state
from dd_nb.data import load_data,split_validation
from dd_nb.distillation import distill
from dd_nb.protocols import benchmark
from dd_nb.evaluation import check_fits,evaluate
from dd_nb.inits import FixedInit, RandomInit
from dd_nb.synthetic import Synthetic
from dd_nb.networks import TextCNN, TextRNN, TextTransformer
from dd_nb.text import TEXTS,data_from_texts,glove_vectors,load_text,ppmi_vectors,random_vectors,sentences
from dd_nb.text import words
from dd_nb.layers import kernels
from dd_nb.unrolling import Unroll
from dd_nb.structure import can_stack,functional
from dd_nb.speed import hypergradients
from dd_nb.train import trained
from dd_nb.zoo import nearest_neighbour

NETS = dict(cnn=(TextCNN, dict(act='gelu')), rnn=(TextRNN, dict(cell='rnn')), gru=(TextRNN, dict(cell='gru', both=False)), lstm=(TextRNN, {}), transformer=(TextTransformer, {}),
            project=(TextCNN, dict(act='gelu', project=True)))


def corpus(n=240, seed=0):
    "Sentences about animals and about machines; the last word of each says whether they are liked."
    g = random.Random(seed)
    kinds = 'cat dog cow hen'.split(), 'car jet bus tram'.split()
    does = 'eats sleeps runs'.split(), 'rusts stalls brakes'.split()
    ys = [g.randrange(2) for _ in range(n)]
    return [f'the {g.choice(kinds[y])} {g.choice(does[y])}' + g.choice([' here', ' over there', '']) for y in ys], ys


@pytest.fixture(scope='module')
def data(): return data_from_texts(*corpus(), *corpus(80, 1), dim=6, length=6, name='toy', classes=['animal', 'machine'])


def net(kind, shape=(6, 6), **kw):
    f, more = NETS[kind]
    return f(shape, 2, **{**dict(width=8, seed=0), **more, **kw})


def test_words():
    assert words("It's  O.K., isn't it?") == ['it', "'s", 'o', '.', 'k', '.', ',', 'isn', "'t", 'it', '?']
    assert words('') == [] and words('1999 café') == ['1999', 'café']


def test_vectors_look_up_fill_up_and_come_back(data):
    v = data.norm
    ids = torch.tensor([[1, 0], [2, 1]])
    assert torch.equal(v(ids), v.vectors[ids]) and v(ids)[0, 1].eq(0).all() and v.to(dtype=torch.float64)(ids).dtype == torch.float64
    back = norm_from_state(v.state())
    assert back.words == v.words and torch.equal(back.vectors, v.vectors) and back.kind == v.kind
    assert v.nearest(v.vectors[3]*2)[0] == v.words[3] and v.nearest(torch.zeros(6))[0] == ''
    assert v.example_shape((6,)) == (6, 6) and v.to_dict() == dict(vectors=v.kind, words=len(v.words), dim=6)


@pytest.mark.parametrize('args, says', [
    ((['', 'a'], torch.zeros(3, 2)), 'one for each word'), ((['b', 'a'], torch.zeros(2, 2)), "must begin with ''"), ((['', 'a', 'a'], torch.zeros(3, 2)), 'be distinct'),
    ((['', 'a'], torch.full((2, 2), 1e6)), 'must be finite')])
def test_vectors_refuse(args, says):
    with pytest.raises(ValueError, match=says): Vectors(*args)


def test_vectors_of_what_is_no_word(data):
    with pytest.raises(TypeError, match='must be whole numbers'): data.norm(torch.zeros(2))
    with pytest.raises(ValueError, match="must hold 'vectors'"): norm_from_state(dict(vectors=torch.zeros(2, 2)))


def test_counting_finds_words_that_are_alike():
    v = ppmi_vectors(corpus(600)[0], dim=4)
    unit = nn.functional.normalize(v.vectors, dim=1)
    at = {w: i for i, w in enumerate(v.words)}
    def alike(a, b): return (unit[at[a]] @ unit[at[b]]).item()
    assert alike('cat', 'dog') > .9 and alike('jet', 'bus') > .9 and alike('cat', 'bus') < .5


def test_positive_pointwise_mutual_information_by_hand():
    "Two words, each always beside the other and never beside itself: the matrix is [[0, a], [a, 0]], its two directions equally long."
    v = ppmi_vectors(['x y']*4, dim=2, min_count=1)
    d = v.vectors[1:] @ v.vectors[1:].T
    assert v.words == ['', 'x', 'y'] and d[0, 0].item() == pytest.approx(d[1, 1].item(), rel=1e-2)


def test_rare_words_are_left_out_and_labels_are_not_asked():
    texts = ['a b c'] + ['a b']*3
    assert ppmi_vectors(texts, 2).words == random_vectors(texts, 2).words == ['', 'a', 'b']
    a, b = random_vectors(texts, 5, seed=1).vectors, random_vectors(texts, 5, seed=1).vectors
    assert torch.equal(a, b) and a[0].eq(0).all()


def test_glove_file(tmp_path):
    f = tmp_path/'glove.txt'
    f.write_text('the .5 1.\ncat -2 .25\nunused 1 1\n. 9 9\n')
    v = glove_vectors(f, ['The cat .', 'the dog'])
    assert v.words == ['', '.', 'cat', 'the'] and v.vectors[2].tolist() == [-2, .25] and v.kind == 'glove.txt'
    d = data_from_texts(['the cat', 'cat'], [0, 1], ['the'], [0], embedding=f, length=3)
    assert d.x_train[0].tolist() == [[.5, 1], [-2, .25], [0, 0]]
    f.write_text('the .5 x\n')
    with pytest.raises(ValueError, match='not as in line 1'): glove_vectors(f, ['the'])
    with pytest.raises(ValueError, match='for words that occur'): glove_vectors(f, ['dog'])
    with pytest.raises(FileNotFoundError): glove_vectors(tmp_path/'none.txt', ['the'])


def test_data(data):
    assert data.shape == (6, 6) and data.x_train.shape == (240, 6, 6) and data.n_classes == 2 and 'toy' in repr(data)
    first = words(corpus()[0][0])
    assert data.norm.nearest(data.x_train[0])[0] == first + ['']*(6 - len(first))
    v = split_validation(data, 40)
    assert v.shape == data.shape and len(v.y_test) == 40 and data.to(dtype=torch.float64).x_test.dtype == torch.float64
    unseen = data_from_texts(*corpus(), ['the yak eats'], [0], dim=6, length=4).x_test
    assert unseen[0, 2].eq(0).all() and not unseen[0, 1].eq(0).all()   # words that are not known are passed over


@pytest.mark.parametrize('kw, says', [(dict(embedding='word2vec'), 'embedding must be'), (dict(length=0), 'length must be'), (dict(y_train=[0]*240), r'none of class 1'), (dict(y_test=[0]*79), 'y_test has 79'),
                                      (dict(classes=['a']), 'none of class 1'), (dict(y_test=[5]*80), 'none of class 2')])
def test_data_refuses(kw, says):
    (train, y), (test, yt) = corpus(), corpus(80, 1)
    with pytest.raises(ValueError, match=says): data_from_texts(**{**dict(train=train, y_train=y, test=test, y_test=yt), **kw})


def test_files_as_they_are_published(tmp_path):
    (tmp_path/'trec').mkdir()
    for name in ('train_5500.label', 'TREC_10.label'):
        (tmp_path/'trec'/name).write_bytes(''.join(f'{c}:x Who is {c.lower()} \xe9 ?\n' for c in ('DESC', 'ENTY', 'ABBR', 'HUM', 'NUM', 'LOC')*2).encode('latin-1'))
    for sub, line in (('fine', '{y} a film {y}\n'), ('binary', 'a film {y}\t{z}\n')):
        (tmp_path/'sst'/sub).mkdir(parents=True)
        for part in ('train', 'test'): (tmp_path/'sst'/sub/f'sentiment-{part}').write_text(''.join(line.format(y=y, z=y % 2) for y in range(5))*2)
    for part in ('train', 'test'):
        for c in ('pos', 'neg'):
            (tmp_path/'aclImdb'/part/c).mkdir(parents=True)
            for i in range(3): (tmp_path/'aclImdb'/part/c/f'{i}_7.txt').write_text(f'A {c} film.<br /><br />Really.')
    got = {k: load_data(k, root=tmp_path) for k in TEXTS}
    assert {k: (d.n_classes, len(d.y_train), d.shape[0]) for k, d in got.items()} == dict(trec=(6, 12, 20), sst5=(5, 10, 30), sst2=(2, 10, 20), imdb=(2, 6, 200))
    assert got['trec'].classes[0] == 'abbreviation' and got['trec'].y_train[:3].tolist() == [1, 2, 0] and 'é' in got['trec'].norm.words
    assert got['imdb'].y_train.tolist() == [0]*3 + [1]*3 and 'br' not in got['imdb'].norm.words
    assert load_text('SST-2', root=tmp_path).name == 'sst2'
    with pytest.raises(FileNotFoundError, match='there is no file'): load_data('trec', root=tmp_path/'sst')
    with pytest.raises(FileNotFoundError, match='there are no reviews'): load_data('imdb', root=tmp_path/'sst')
    with pytest.raises(ValueError, match='size, zca and channels must be left out'): load_data('trec', root=tmp_path, size=28)
    with pytest.raises(ValueError, match='name must be one of trec'): load_text('trek')


def test_real_files(data_root):
    if not (data_root/'trec').is_dir(): pytest.skip('no text under DD_NB_DATA')
    d = load_data('trec', root=data_root)
    assert (len(d.y_train), len(d.y_test), d.n_classes, d.shape) == (5452, 500, 6, (20, 100))
    assert torch.bincount(d.y_test).tolist() == [9, 138, 94, 65, 81, 113]
    assert len(load_data('sst5', root=data_root).y_train) == 8544


def tsv(path):
    path.write_text(''.join(f'{("animal", "machine")[y]}\t{t}\n' for t, y in zip(*corpus())))
    return path


def test_a_file_of_ones_own(tmp_path):
    d = load_data(tsv(tmp_path/'mine.tsv'))
    assert d.name == 'mine.tsv' and d.classes == ['animal', 'machine'] and len(d.y_test) == 72 and len(d.y_train) == 168
    (tmp_path/'bad.tsv').write_text('animal\tthe cat\nno tab\n')
    with pytest.raises(ValueError, match='as in line 2'): load_data(tmp_path/'bad.tsv')
    (tmp_path/'one.tsv').write_text('animal\tthe cat\n'*9)
    with pytest.raises(ValueError, match='at least two classes'): load_data(tmp_path/'one.tsv')


@pytest.mark.parametrize('kind', NETS)
def test_gradient_against_finite_differences(data, kind):
    d = data.to(dtype=torch.float64)
    state, batch = FixedInit(net(kind, pool='avg').double()).state, d.batch(32, torch.Generator().manual_seed(0))
    syn = Synthetic.real(d, epochs=2, lr=.5).softened('smoothed')
    g, = torch.autograd.grad(Unroll()(syn, state, batch), [syn.images])
    filled = (syn.images == 0).all(-1)
    assert filled.any() and g[filled].eq(0).all()   # so a sentence keeps its length
    def loss(x): return Unroll()(syn.changed(images=x), state, batch).item()
    for i in range(4):
        u = torch.randn(g.shape, generator=torch.Generator().manual_seed(i), dtype=g.dtype)*~filled[..., None]
        x, h = syn.images.detach(), 1e-4
        assert (loss(x + h*u) - loss(x - h*u))/(2*h) == pytest.approx((g*u).sum().item(), rel=1e-5)


@pytest.mark.parametrize('kind', NETS)
def test_all_strategies_agree(data, kind):
    d = data.to(dtype=torch.float64)
    syn, states, batches = Synthetic.real(d, epochs=3, lr=.01, inner='adam').softened('smoothed', 'softmax'), [FixedInit(net(kind).double()).state], [d.batch(32, torch.Generator().manual_seed(0))]
    want = hypergradients(Unroll('graph'), syn, states, batches)[1]
    for s in ('recompute', 'segments'):
        for a, b in zip(hypergradients(Unroll(s), syn, states, batches)[1], want): assert (a - b).norm() <= 1e-10*b.norm()


def test_fused_kernels_are_off_while_such_a_network_is_called_and_on_again_after():
    fused = torch.backends.cuda.flash_sdp_enabled
    before, seen = fused(), []
    class Look(nn.Module):
        def __init__(self): super().__init__(); self.w = nn.Linear(2, 2)
        def forward(self, x): seen.append(fused()); return self.w(x)
    s = functional(Look())
    s(torch.zeros(1, 2))
    assert seen == [False] and fused() == before
    with pytest.raises(RuntimeError), kernels(s.net.module): raise RuntimeError
    assert fused() == before
    with kernels(nn.Linear(2, 2)): assert fused() == before   # a layer of torch's needs no care
    with kernels(nn.MultiheadAttention(4, 2)): assert not fused()


def test_attention_of_ones_own_is_differentiated_twice():
    class Own(nn.Module):
        def __init__(self): super().__init__(); self.q = nn.Linear(4, 12); self.out = nn.Linear(4, 2)
        def forward(self, x):
            q, k, v = self.q(x)[:, None].chunk(3, -1)
            return self.out(nn.functional.scaled_dot_product_attention(q, k, v)[:, 0].mean(1))
    torch.manual_seed(0)
    syn = Synthetic.noise((5, 4), 2, epochs=2, lr=.3, seed=0)
    loss = Unroll('graph')(syn, functional(Own()), (torch.randn(8, 5, 4), torch.arange(8) % 2))
    assert torch.autograd.grad(loss, syn.images)[0].norm() > 0


def test_recurrent_networks_are_not_stacked(data):
    assert can_stack(net('cnn')) and can_stack(net('transformer')) and not can_stack(net('lstm'))
    syn, batch = Synthetic.real(data, epochs=2, lr=.3), data.batch(16, torch.Generator().manual_seed(0))
    states = RandomInit(lambda: net('cnn', seed=None), 0).draw(2)
    one = [hypergradients(Unroll(), syn, [s], [batch])[1][0] for s in states]
    both = hypergradients(Unroll(), syn, states, [batch]*2, stacked=True)[1][0]
    assert torch.allclose(both, (one[0] + one[1])/2, atol=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU')
@pytest.mark.parametrize('kind', NETS)
def test_on_a_gpu(data, kind):
    syn, states, batches = Synthetic.real(data, epochs=2, lr=.3), [FixedInit(net(kind)).state]*2, [data.batch(32, torch.Generator().manual_seed(i)) for i in range(2)]
    want = hypergradients(Unroll(), syn, states, batches)[1]
    got = hypergradients(Unroll(), syn.copy().to('cuda'), [s.to('cuda') for s in states], [(x.cuda(), y.cuda()) for x, y in batches])[1]
    for a, b in zip(got, want): assert (a.cpu() - b).norm() <= 1e-3*b.norm()
    evaluate(syn, RandomInit(lambda: net(kind, seed=None), 0), data.to('cuda'), n_nets=2)


def test_distilled_saved_judged_and_read(data, tmp_path):
    syn = Synthetic.real(data, epochs=4, lr=.5).softened('smoothed', 'softmax')
    source = FixedInit(net('cnn'))
    before = evaluate(syn, source, data).mean
    distill(syn, source, data, iters=80, batch_size=64, progress=False)
    assert evaluate(syn, source, data).mean >= max(before, .9)
    back = Synthetic.load(syn.save(tmp_path/'s.safetensors'))
    assert isinstance(back.norm, Vectors) and back.norm.words == data.norm.words
    check_fits(back, data)
    assert evaluate(back, None, data).mean == evaluate(syn, source, data).mean
    said = sentences(back)
    assert len(said) == 2 and all(w in data.norm.words for s in said for w in s.split()) and set(' '.join(sentences(back, least=2.)).split()) == {'·'}
    other = data_from_texts(*corpus(), *corpus(80, 1), dim=6, length=6, embedding='random')
    with pytest.raises(ValueError, match='another normalisation'): check_fits(back, other)
    with pytest.raises(ValueError, match='made for sentences'): sentences(Synthetic.noise((1, 4, 4), 2))
    assert benchmark(back, data, net=dict(name='TextRNN', width=4), protocol='plain', n_nets=1, progress=False).mean > .4
    assert 0 < nearest_neighbour(back, data) <= 1
    assert back.show() is not None and trained(back, source.state)(data.x_test).shape == (80, 2)
