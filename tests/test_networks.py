"Networks: their sizes, their seeds, their second derivatives and the sentences they answer bad input with."
import copy, io, json, math, subprocess, sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

from dd_nb.networks import (ACTS, CELLS, INITS, NETWORKS, NORMS, POOLS, AlexCifarNet, AlexNet, ConvNet, LeNet, Logistic, MLP, ResNet18, TextCNN,
                            TextRNN, TextTransformer, VGG11, count_params, feature_dim, forward_cost, init_weights, make_net, network, torchvision_net)

GREY, COLOUR = (1, 28, 28), (3, 32, 32)
NORMED = [ConvNet, AlexNet, VGG11, ResNet18]
# small forms, so that every architecture can be differentiated twice in float64 within a second or so
SMALL = dict(LeNet=dict(), AlexCifarNet=dict(shape=(3, 12, 12)), ConvNet=dict(shape=(3, 8, 8), width=6, depth=2),
             AlexNet=dict(shape=(1, 8, 8)), VGG11=dict(shape=(1, 28, 28)), ResNet18=dict(shape=(2, 16, 16)),
             MLP=dict(shape=(5, 2), hidden=(8, 7)), Logistic=dict(shape=(6,)))
FEATURES = dict(LeNet=84, AlexCifarNet=192, ConvNet=2048, AlexNet=3072, VGG11=512, ResNet18=512, MLP=128, Logistic=3072)


def small(name, **kwargs):
    a = {'shape': GREY, 'n_classes': 3, 'seed': 0, **SMALL[name], **kwargs}
    return make_net(name, a.pop('shape'), a.pop('n_classes'), **a)

def same(a, b): return all(torch.equal(p, q) for p, q in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


# ---- sizes -------------------------------------------------------------------------------------------------------------------

def test_every_network_is_covered_here():
    assert {*SMALL, 'TextCNN', 'TextRNN', 'TextTransformer'} == {n for n, make in NETWORKS.items() if make.__module__ == 'dd_nb.networks'}

@pytest.mark.parametrize('net, n', [
    (lambda: LeNet(GREY, 10), (25*6 + 6) + (25*6*16 + 16) + (400*120 + 120) + (120*84 + 84) + (84*10 + 10)),
    (lambda: LeNet(), 61_706),
    (lambda: LeNet(COLOUR, 10), 61_706 + 2*25*6),
    (lambda: AlexCifarNet(), (75*64 + 64) + (64*25*64 + 64) + (4096*384 + 384) + (384*192 + 192) + (192*10 + 10)),
    (lambda: AlexCifarNet(COLOUR, 10), 1_756_426),
    (lambda: ConvNet(COLOUR, 10), (27*128 + 128) + 2*(1152*128 + 128) + 3*256 + (2048*10 + 10)),
    (lambda: ConvNet(COLOUR, 10), 320_010),
    (lambda: ConvNet(GREY, 10), 317_706),
    (lambda: ConvNet(COLOUR, 10, norm='none'), 320_010 - 3*256),
    (lambda: ConvNet((3, 64, 64), 200, depth=4), (27*128 + 128) + 3*(1152*128 + 128) + 4*256 + (2048*200 + 200)),
    (lambda: AlexNet(COLOUR, 10), 1_872_202),
    (lambda: VGG11(COLOUR, 10), 9_231_114),
    (lambda: ResNet18(COLOUR, 10), 11_173_962),
    (lambda: ResNet18(COLOUR, 10, norm='none'), 11_173_962 - 2*(64*5 + 128*5 + 256*5 + 512*5)),
    (lambda: MLP(GREY, 10), (784*128 + 128) + (128*128 + 128) + (128*10 + 10)),
    (lambda: MLP(GREY, 10, hidden=()), 7850),
    (lambda: Logistic((7,), 2), 16),
])
def test_parameter_counts_by_hand(net, n): assert count_params(net()) == n

def test_forward_cost_by_hand():
    assert forward_cost(LeNet()) == 25*6*28*28 + 150*16*10*10 + 400*120 + 120*84 + 84*10
    assert forward_cost(Logistic(GREY, 10)) == 7840
    assert forward_cost(ConvNet(COLOUR, 10)) == 27*128*32*32 + 1152*128*(16*16 + 8*8) + 2048*10
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(18, 2))
    assert forward_cost(net, (1, 5, 5)) == 9*2*9 + 36

def test_cost_and_feature_dim_leave_the_network_alone():
    net = ConvNet(COLOUR, 10, width=8, norm='batch').train()
    before, rng = copy.deepcopy(net), torch.get_rng_state()
    assert feature_dim(net) == feature_dim(net, COLOUR) == 8*4*4 == net[-1].in_features
    forward_cost(net)
    assert same(net, before) and net.training and torch.equal(rng, torch.get_rng_state())

@pytest.mark.parametrize('name, n', FEATURES.items())
def test_features_and_classifier(name, n):
    net = make_net(name, COLOUR, 10, seed=0).eval()
    x = torch.randn(2, *COLOUR)
    features = net[:-1](x)
    assert features.shape == (2, n) and isinstance(net[-1], nn.Linear) and feature_dim(net) == n
    assert torch.equal(net[-1](features), net(x))

@pytest.mark.parametrize('name', SMALL)
@pytest.mark.parametrize('shape', [GREY, COLOUR, (3, 33, 35), (4, 30, 32), (1, 29, 40)])
def test_forward_on_many_shapes(name, shape):
    assert make_net(name, shape, 10)(torch.randn(2, *shape)).shape == (2, 10)

@pytest.mark.parametrize('name', SMALL)
@pytest.mark.parametrize('n_classes', [2, 1000])
def test_number_of_classes(name, n_classes):
    net = make_net(name, GREY, n_classes)
    assert net(torch.zeros(2, *GREY)).shape == (2, n_classes)

@pytest.mark.parametrize('name, side', dict(AlexCifarNet=8, AlexNet=8, ResNet18=16, VGG11=28, LeNet=28, ConvNet=8).items())
def test_the_smallest_image_works_and_a_smaller_one_is_refused(name, side):
    assert make_net(name, (1, side, side), 2)(torch.randn(2, 1, side, side)).isfinite().all()
    for shape in [(1, side - 1, side), (1, side, side - 1)]:
        with pytest.raises(ValueError, match=f'{side} x {side} pixels'): make_net(name, shape, 2)

def test_28_pixels_count_as_32():
    for name in ['LeNet', 'AlexCifarNet', 'ConvNet', 'AlexNet', 'VGG11']:
        assert feature_dim(make_net(name, (3, 28, 28), 10)) == feature_dim(make_net(name, COLOUR, 10))
    net = LeNet((1, 28, 32), 10)
    assert net[0].padding == (2, 0)

@pytest.mark.parametrize('make', NORMED)
@pytest.mark.parametrize('norm', NORMS)
def test_every_norm_in_every_network(make, norm):
    net = make(GREY, 10, norm=norm, **(dict(width=6) if make is ConvNet else {})).train()
    assert net(torch.randn(2, *GREY)).isfinite().all()
    kinds = {type(m) for m in net.modules()} & {nn.BatchNorm2d, nn.GroupNorm}
    assert kinds == ({nn.BatchNorm2d} if norm == 'batch' else set() if norm == 'none' else {nn.GroupNorm})
    assert bool(list(net.buffers())) == (norm == 'batch')

def test_norm_groups():
    assert [NORMS[n](6).num_groups for n in ('instance', 'group', 'layer')] == [6, 2, 1]
    assert NORMS['group'](64).num_groups == 4 and NORMS['group'](5).num_groups == 1
    x = torch.randn(3, 6, 5, 5)
    assert torch.allclose(NORMS['instance'](6)(x), F.instance_norm(x), atol=1e-5)

@pytest.mark.parametrize('act', ACTS)
@pytest.mark.parametrize('pool', POOLS)
def test_activations_and_pooling(act, pool):
    net = ConvNet((1, 8, 8), 2, width=3, depth=2, act=act, pool=pool)
    assert type(net[2]) is ACTS[act] and type(net[3]) is POOLS[pool]
    for name in ['LeNet', 'AlexCifarNet']: assert sum(type(m) is POOLS[pool] for m in make_net(name, COLOUR, 2, act=act, pool=pool)) == 2

def test_response_normalisation_is_the_paper_s():
    lrns = [m for m in AlexCifarNet() if isinstance(m, nn.LocalResponseNorm)]
    assert [(m.size, m.alpha, m.beta, m.k) for m in lrns] == [(4, .001/9, .75, 1.)]*2


# ---- weights -----------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('name, init', [(n, i) for n in SMALL for i in (['default'] if n in ('VGG11', 'ResNet18') else INITS)])
def test_a_seed_gives_the_same_weights_and_leaves_the_global_state(name, init):
    rng = torch.get_rng_state()
    a = small(name, init=init, seed=3)
    torch.rand(5)
    torch.set_rng_state(rng)
    b = small(name, init=init, seed=3)
    assert torch.equal(rng, torch.get_rng_state())
    assert same(a, b) and not same(a, small(name, init=init, seed=4))
    assert same(a, init_weights(small(name, seed=9), init, seed=3))

def test_without_a_seed_the_global_state_decides():
    torch.manual_seed(5)
    a, b = LeNet(), LeNet()
    torch.manual_seed(5)
    assert same(a, LeNet()) and not same(a, b)
    assert same(a, LeNet(seed=5))  # nothing is drawn but the weights

def test_seed_and_precision():
    a = LeNet(seed=1)
    assert same(a, init_weights(LeNet().double(), seed=1).float())
    assert same(a.to(torch.bfloat16), init_weights(LeNet().to(torch.bfloat16), seed=1))

def test_default_dtype_is_respected():
    torch.set_default_dtype(torch.float64)
    try: net = ConvNet(COLOUR, 10, width=4, seed=2)
    finally: torch.set_default_dtype(torch.float32)
    assert net[-1].weight.dtype == torch.float64 and same(net.float(), ConvNet(COLOUR, 10, width=4, seed=2))

@pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU')
def test_seed_and_device():
    rng = torch.cuda.get_rng_state()
    assert same(LeNet(seed=1), init_weights(LeNet().cuda(), seed=1).cpu())
    with torch.device('cuda'): net = LeNet(seed=1)
    assert net[0].weight.is_cuda and same(LeNet(seed=1), net.cpu()) and torch.equal(rng, torch.cuda.get_rng_state())

def test_default_initialisations():
    for net in [LeNet(seed=0), AlexCifarNet(seed=0)]:
        assert net.spec['init'] == 'xavier'
        for m in net:
            if isinstance(m, (nn.Linear, nn.Conv2d)):
                assert (m.bias == 0).all()
                fan_in, fan_out = nn.init._calculate_fan_in_and_fan_out(m.weight)
                if m.weight.numel() > 1000: assert m.weight.std().item() == pytest.approx((2/(fan_in + fan_out))**.5, rel=.07)
    for name in ['ConvNet', 'AlexNet', 'VGG11', 'ResNet18', 'MLP', 'Logistic']: assert small(name).spec['init'] == 'default'

@pytest.mark.parametrize('init, std', [('xavier', 192**-.5), ('kaiming', 128**-.5), ('orthogonal', 256**-.5), ('default', 768**-.5)])
@pytest.mark.parametrize('gain', [1, .5, 3.])
def test_initialisers_and_gain(init, std, gain):
    m = init_weights(nn.Linear(256, 128), init, gain, seed=0)
    assert m.weight.std().item() == pytest.approx(std*gain, rel=.02)
    if init == 'orthogonal': assert torch.allclose(m.weight @ m.weight.T, gain**2 * torch.eye(128), atol=1e-4)
    assert m.bias.abs().max() == 0 if init != 'default' else 0 < m.bias.abs().max() <= 1/16  # the gain is for weights

@pytest.mark.parametrize('init', INITS)
def test_norm_layers_are_reset(init):
    net = ConvNet(COLOUR, 10, width=4, norm='batch', seed=0)
    fresh = copy.deepcopy(net)
    net(torch.randn(8, *COLOUR) + 1)
    with torch.no_grad(): net[1].weight.fill_(3.); net[1].bias.fill_(3.)
    assert not same(net, fresh)
    assert same(init_weights(net, init, seed=0), ConvNet(COLOUR, 10, width=4, norm='batch', init=init, seed=0))
    assert (net[1].weight == 1).all() and (net[1].bias == 0).all() and net[1].num_batches_tracked == 0 and (net[1].running_var == 1).all()

def test_init_weights_is_in_place_and_kept_in_the_spec():
    net = ConvNet(COLOUR, 10, width=4)
    weight, spec = net[0].weight, net.spec
    assert init_weights(net, 'orthogonal', 2, seed=8) is net and net[0].weight is weight and weight.requires_grad
    assert net.spec == {**spec, 'init': 'orthogonal', 'gain': 2., 'seed': 8} and same(net, make_net(**net.spec))
    assert 'spec' not in vars(init_weights(nn.Linear(2, 2)))

def test_a_user_s_own_layers():
    net = nn.ModuleDict(dict(e=nn.Embedding(5, 4), r=nn.LSTM(4, 3), a=nn.MultiheadAttention(4, 2), n=nn.LayerNorm(4)))
    first = copy.deepcopy(init_weights(net, seed=0))
    with torch.no_grad():
        for p in net.parameters(): p.add_(1)
    assert same(init_weights(net, seed=0), first)
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.p = nn.Parameter(torch.zeros(3))
    with pytest.raises(TypeError, match='Own'): init_weights(nn.Sequential(Own()))


# ---- spec, copies, names -----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('name', SMALL)
def test_spec_rebuilds_the_network(name):
    net = small(name, gain=1.5, seed=11)
    spec = json.loads(json.dumps(net.spec))
    assert spec == net.spec and spec['name'] == name and spec['n_classes'] == 3 and spec['gain'] == 1.5
    assert same(net, again := make_net(**spec)) and again.spec == spec and repr(net) == repr(again)
    free = small(name, seed=None)
    assert free.spec['seed'] is None and repr(make_net(**free.spec)) == repr(free)

@pytest.mark.parametrize('name', SMALL)
def test_copies_and_pickles(name):
    net = small(name)
    other = copy.deepcopy(net)
    assert same(net, other) and other.spec == net.spec and other[-1].weight is not net[-1].weight
    torch.save(net, buf := io.BytesIO())
    assert same(net, loaded := torch.load(io.BytesIO(buf.getvalue()), weights_only=False)) and loaded.spec == net.spec

def test_spec_of_unusual_arguments():
    import numpy as np
    net = MLP(torch.Size([2, 3]), np.int64(4), hidden=[np.int64(5)], seed=np.int64(1))
    spec = dict(name='MLP', shape=[2, 3], n_classes=4, hidden=[5], act='relu', init='default', gain=1., seed=1)
    assert json.loads(json.dumps(net.spec)) == spec

@pytest.mark.parametrize('name', ['lenet', 'LENET', 'resnet-18', 'vgg_11', 'Alex_Cifar_Net', 'mlp', 'logistic', 'convnet', 'alexnet'])
def test_names_are_forgiving(name): assert make_net(name, GREY, 2).spec['name'].lower() == name.lower().replace('-', '').replace('_', '')

def test_a_network_of_one_s_own():
    try:
        @network
        def Tiny(shape, n_classes, init='xavier', gain=1., seed=None):
            return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), n_classes))
        net = make_net('tiny', (2, 2), 3, seed=1)
        assert net.spec == dict(name='Tiny', shape=[2, 2], n_classes=3, init='xavier', gain=1., seed=1)
        with pytest.raises(ValueError, match='n_classes'): Tiny((2, 2), 0)
    finally: NETWORKS.pop('Tiny', None)
    with pytest.raises(TypeError, match='gain'):
        @network
        def Poor(shape, n_classes, init, seed): pass

def test_help_stays_readable():
    from fastcore.docments import docments
    for name, make in ((n, NETWORKS[n]) for n in SMALL):
        assert make.__name__ == name and make.__doc__
        docs = docments(make)
        assert all(docs[p] for p in docs), name


# ---- sentences ---------------------------------------------------------------------------------------------------------------

SENTENCES = dict(cnn=(TextCNN, dict(act='gelu')), rnn=(TextRNN, dict(cell='rnn')), gru=(TextRNN, dict(cell='gru', both=False)), lstm=(TextRNN, {}),
                 transformer=(TextTransformer, {}), project=(TextCNN, dict(act='gelu', project=True)))

def sentence_net(kind, shape, **kw):
    make, more = SENTENCES[kind]
    return make(shape, 2, width=8, seed=0, **more, **kw).eval()

def sentences(n=20):
    "Three to five words of six numbers, filled up to six words with zeros."
    x = torch.randn(n, 6, 6, generator=torch.Generator().manual_seed(0))
    for i in range(n): x[i, 3 + i % 3:] = 0
    return x

@pytest.mark.parametrize('pool', ['max', 'avg'])
@pytest.mark.parametrize('kind', SENTENCES)
def test_networks_for_sentences_are_blind_to_what_fills_up(kind, pool):
    a, b = sentence_net(kind, (6, 6), pool=pool), sentence_net(kind, (9, 6), pool=pool)
    b.load_state_dict({k: torch.cat([v, v[:3]]) if 'place' in k else v for k, v in a.state_dict().items()})
    x = sentences()
    assert torch.allclose(a(x), b(nn.functional.pad(x, (0, 0, 0, 3))), atol=1e-6)
    nothing = a(torch.zeros(1, 6, 6))
    assert torch.isfinite(nothing).all() and torch.allclose(nothing[0], a[-1].bias)   # no words, no features
    assert not torch.allclose(a(x[:1]), a(x[:1].flip(1)))   # order matters, or the sentence begins elsewhere

def test_reading_backwards_begins_with_the_last_word():
    "Both directions of one layer agree on a palindrome, wherever its filling begins."
    m = TextRNN((6, 6), 2, width=4, seed=0)[0].words
    m.back.load_state_dict(m.there.state_dict())
    a, b = torch.randn(2, 6)
    x = torch.stack([a, b, a, *torch.zeros(3, 6)])[None]
    h = m(x, (x != 0).any(-1))
    assert torch.allclose(h[0, :3, :4], h[0, :3, 4:].flip(0), atol=1e-6)

def test_networks_for_sentences_by_name_and_what_they_refuse():
    assert make_net('text_rnn', shape=(5, 4), n_classes=3, cell='gru', seed=1).spec['cell'] == 'gru' and set(CELLS) == {'rnn', 'gru', 'lstm'}
    for f, kw, says in ((TextCNN, dict(sizes=(2,)), 'sizes must be odd'), (TextRNN, dict(cell='qrnn'), "cell must be one of rnn, gru, lstm, got 'qrnn'"), (TextTransformer, dict(width=9), 'heads must divide width=9, got 2')):
        with pytest.raises(ValueError, match=says): f((5, 4), 2, **kw)
        with pytest.raises(ValueError, match=f'{f.__name__} takes sentences'): f((1, 28, 28), 2)
    a, b = (TextTransformer((5, 4), 2, seed=3).state_dict() for _ in range(2))
    assert all(torch.equal(a[k], b[k]) for k in a)


# ---- torchvision's ------------------------------------------------------------------------------------------------------------

def test_a_new_last_layer_favours_no_class():
    net = torchvision_net('alexnet', 7)
    out = net(torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0)))
    assert out.shape == (2, 7) and (out == 1).all()
    assert not any(getattr(m, 'inplace', False) for m in net.modules()) and all(m.p == 0 for m in net.modules() if isinstance(m, torch.nn.Dropout))
    with pytest.raises(ValueError, match="name must be a model of torchvision"): torchvision_net('alexnett', 7)
    with pytest.raises(ValueError, match="weights must be None or a name that torchvision knows for alexnet, got 'NONE_SUCH'"): torchvision_net('alexnet', 7, weights='NONE_SUCH')
    with pytest.raises(ValueError, match='n_classes must be at least 1'): torchvision_net('alexnet', 0)
    with pytest.raises(ValueError, match="ends in a linear layer.*got 'squeezenet1_0'"): torchvision_net('squeezenet1_0', 7)


# ---- bad input ---------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('call, error, words', [
    (lambda: make_net('LeNett', GREY, 10), ValueError, "did you mean 'LeNet'"),
    (lambda: make_net(None, GREY, 10), ValueError, 'name must be one of LeNet'),
    (lambda: LeNet((28, 28), 10), ValueError, r'\(channels, height, width\)'),
    (lambda: LeNet(28, 10), ValueError, 'shape must be'),
    (lambda: LeNet('1x28x28', 10), ValueError, 'shape must be'),
    (lambda: LeNet((1, 28, 0), 10), ValueError, 'shape must be'),
    (lambda: LeNet((1, 28., 28), 10), ValueError, 'shape must be'),
    (lambda: LeNet((), 10), ValueError, 'shape must be'),
    (lambda: MLP((), 10), ValueError, 'shape must be'),
    (lambda: LeNet((1, 27, 28), 10), ValueError, 'at least 28 x 28 pixels, got 27 x 28'),
    (lambda: LeNet(GREY, 0), ValueError, 'n_classes must be at least 1, got 0'),
    (lambda: LeNet(GREY, True), ValueError, 'n_classes'),
    (lambda: LeNet(GREY, 10.), ValueError, 'n_classes'),
    (lambda: ConvNet(GREY, 10, width=0), ValueError, 'width'),
    (lambda: ConvNet(GREY, 10, depth=0), ValueError, 'depth'),
    (lambda: ConvNet(GREY, 10, depth=6), ValueError, 'at least 64 x 64 pixels, got 28 x 28: ConvNet of depth 6 needs images'),
    (lambda: ConvNet(GREY, 10, norm='instanc'), ValueError, "norm must be one of none, batch, instance, group, layer, got 'instanc'"),
    (lambda: ConvNet(GREY, 10, norm=None), ValueError, 'norm must be one of none, .*, got None'),
    (lambda: ConvNet(GREY, 10, act='RELU'), ValueError, "act must be one of relu, .*, got 'RELU'"),
    (lambda: ConvNet(GREY, 10, pool='mean'), ValueError, 'pool must be one of max, avg'),
    (lambda: ConvNet(GREY, 10, init='xavir'), ValueError, "init must be one of xavier, .*, got 'xavir'"),
    (lambda: LeNet(gain=0), ValueError, 'gain'),
    (lambda: LeNet(gain=math.nan), ValueError, 'gain'),
    (lambda: LeNet(gain='1'), ValueError, 'gain'),
    (lambda: LeNet(seed=-1), ValueError, 'seed'),
    (lambda: LeNet(seed=1.5), ValueError, 'seed'),
    (lambda: LeNet(seed=2**64), ValueError, 'seed'),
    (lambda: LeNet(widht=3), TypeError, "LeNet: got an unexpected keyword argument 'widht'; its arguments are shape"),
    (lambda: ConvNet(GREY), TypeError, "ConvNet: missing a required argument: 'n_classes'"),
    (lambda: make_net('LeNet', GREY, 10, norm='batch'), TypeError, 'LeNet'),
    (lambda: MLP(GREY, 10, hidden=128), ValueError, 'hidden must be a tuple'),
    (lambda: MLP(GREY, 10, hidden=(0,)), ValueError, 'hidden must be a tuple'),
    (lambda: init_weights(LeNet(), 'he'), ValueError, "init must be one of xavier, .*, got 'he'"),
    (lambda: forward_cost(nn.Linear(2, 2)), ValueError, 'shape must be given'),
    (lambda: feature_dim(nn.Linear(2, 2), (2,)), TypeError, 'Sequential'),
])
def test_bad_input_is_one_clear_sentence(call, error, words):
    with pytest.raises(error, match=words) as e: call()
    assert '\n' not in str(e.value) and len(str(e.value)) < 250


# ---- twice differentiable ----------------------------------------------------------------------------------------------------

def smooth(name):
    kw = {} if name == 'Logistic' else dict(act='softplus')
    if name in ('LeNet', 'AlexCifarNet', 'ConvNet', 'AlexNet', 'VGG11'): kw['pool'] = 'avg'
    return small(name, init='xavier', **kw).double()

def inner_gradient(net, params, x, y):
    "The gradient of the training loss for all parameters, as one differentiable vector"
    loss = F.cross_entropy(functional_call(net, params, x), y)
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(params.values()), create_graph=True)])

@pytest.mark.parametrize('name', SMALL)
def test_second_derivative_against_finite_differences(name):
    net, gen = smooth(name), torch.Generator().manual_seed(0)
    params = dict(net.named_parameters())
    shape = (3, *net.spec['shape'])
    x = torch.randn(shape, generator=gen, dtype=torch.float64, requires_grad=True)
    y = torch.tensor([0, 1, 2])
    g = inner_gradient(net, params, x, y)
    v = torch.randn(g.shape, generator=gen, dtype=torch.float64)
    gx, = torch.autograd.grad(g @ v, x)
    ds = torch.randn(4, *shape, generator=gen, dtype=torch.float64)
    ds /= ds.flatten(1).norm(dim=1).view(4, *[1]*len(shape))
    exact = torch.stack([(gx * d).sum() for d in ds])
    for h in [1e-4] if name in ('VGG11', 'ResNet18') else [3e-4, 1e-4]:  # on the plateau; one step for the slow two
        ends = [(inner_gradient(net, params, x + h*d, y), inner_gradient(net, params, x - h*d, y)) for d in ds]
        diff = torch.stack([(a - b) @ v / (2*h) for a, b in ends]).detach()
        error = ((diff - exact).norm() / exact.norm()).item()
        print(f'{name}: step {h:.0e}, relative error {error:.1e}')
        assert error <= 1e-6


@pytest.mark.parametrize('norm', NORMS)
def test_second_derivative_of_every_norm(norm):
    net, gen = ConvNet((3, 8, 8), 3, width=4, depth=2, norm=norm, act='gelu', seed=0).double().train(), torch.Generator().manual_seed(1)
    params = dict(net.named_parameters())
    x, d = torch.randn(2, 5, 3, 8, 8, generator=gen, dtype=torch.float64)
    y = torch.tensor([0, 1, 2, 0, 1])
    xg = x.clone().requires_grad_()
    g = inner_gradient(net, params, xg, y)
    v = torch.randn(g.shape, generator=gen, dtype=torch.float64)
    exact = (torch.autograd.grad(g @ v, xg)[0] * d).sum()
    diff = ((inner_gradient(net, params, x + 1e-5*d, y) - inner_gradient(net, params, x - 1e-5*d, y)) @ v) / 2e-5
    assert abs(diff - exact) <= 1e-6 * abs(exact)

@pytest.mark.parametrize('name', SMALL)
def test_kinked_networks_agree_between_two_ways_of_differentiating(name):
    net = small(name).double().train()
    x, y = torch.randn(4, *net.spec['shape'], dtype=torch.float64, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 0])
    params = {k: p.detach().requires_grad_() for k, p in net.named_parameters()}
    buffers = {k: b.clone() for k, b in net.named_buffers()}
    xg = x.clone().requires_grad_()
    plain = torch.autograd.grad(inner_gradient(net, {**params}, xg, y).square().sum(), xg)[0]
    def squared(x):
        def loss(p):  # the copies are made inside: torch.func lets no transform change what an outer one made
            state = {k: b.clone() for k, b in buffers.items()}
            return F.cross_entropy(functional_call(net, (p, state), x), y)
        grads = torch.func.grad(loss)(params)
        return sum(g.square().sum() for g in grads.values())
    functional = torch.func.grad(squared)(x)
    assert plain.isfinite().all() and (name == 'Logistic' or plain.abs().max() > 0)
    assert (plain - functional).norm() <= 1e-10 * plain.norm()

@pytest.mark.parametrize('name', SMALL)
def test_nothing_works_in_place(name):
    assert not any(getattr(m, 'inplace', False) for m in make_net(name, GREY, 10).modules())

@pytest.mark.parametrize('name', SMALL)
def test_functional_call_leaves_the_module_alone(name):
    net = small(name).train()
    before = copy.deepcopy(net)
    params = {k: p + 1 for k, p in net.named_parameters()}
    state = {k: b.clone() for k, b in net.named_buffers()}
    out = functional_call(net, {**params, **state}, torch.randn(4, *net.spec['shape']))
    assert out.shape == (4, 3) and same(net, before)

def test_many_networks_at_once():
    nets = [LeNet(seed=i) for i in range(3)]
    params, _ = torch.func.stack_module_state(nets)
    x = torch.randn(2, *GREY)
    out = torch.vmap(lambda p: functional_call(nets[0], p, x))(params)
    assert torch.allclose(out, torch.stack([n(x) for n in nets]), atol=1e-5)

def test_a_network_learns():
    gen = torch.Generator().manual_seed(0)
    x, y = torch.randn(20, *GREY, generator=gen), torch.arange(20) % 2
    net = LeNet(GREY, 2, seed=0)
    opt = torch.optim.SGD(net.parameters(), .1)
    for _ in range(60):
        opt.zero_grad()
        F.cross_entropy(net(x), y).backward()
        opt.step()
    assert (net(x).argmax(1) == y).all()

def test_nothing_heavy_is_imported():
    code = "import sys, dd_nb.networks; print([m for m in ('matplotlib', 'sklearn', 'pandas', 'ipywidgets', 'nbdev') if m in sys.modules])"
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout.strip() == '[]'
