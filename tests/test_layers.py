"""Every layer of torch's that can stand in a classifier, one after the other: its hypergradient is the slope of an ordinary training, in float64, or it
is refused in one sentence. When torch changes, the next wrong derivative is found here."""
import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from dd_nb.synthetic import Synthetic
from dd_nb.gradcheck import check_gradient


class Net(nn.Module):
    "A layer between two linear ones; `form` is the shape that it takes."
    def __init__(self, layer, form):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.layer, self.form = nn.Linear(6, torch.Size(form).numel()), layer, form
        with torch.no_grad(): out = self.middle(torch.zeros(2, 6)).shape[1]
        self.b = nn.Linear(out, 3)

    def middle(self, x):
        h = self.a(x).reshape(len(x), *self.form)
        h = self.layer(h)
        return (h[0] if isinstance(h, tuple) else h).flatten(1)

    def forward(self, x): return self.b(self.middle(x))


class Call(nn.Module):
    "A function of torch's, or a layer that is called in a way of its own."
    def __init__(self, f, *own): super().__init__(); self.f, self.own = f, nn.ModuleList(own)
    def forward(self, h): return self.f(h, *self.own)


def with_(parametrization, layer=None):
    "A linear layer with a parametrisation of torch's."
    layer = layer or nn.Linear(8, 8)
    parametrization(layer)
    return layer


class Positive(nn.Module):
    def forward(self, w): return F.softplus(w)


image, sequence, volume, words = (2, 4, 4), (4, 6), (2, 4, 4, 4), (3, 4)
activations = [nn.CELU, nn.ELU, nn.GELU, nn.GLU, nn.Hardshrink, nn.Hardswish, nn.Hardtanh, nn.LeakyReLU, nn.LogSigmoid, nn.LogSoftmax, nn.Mish, nn.PReLU, nn.ReLU, nn.ReLU6, nn.SELU,
               nn.SiLU, nn.Sigmoid, nn.Softmax, nn.Softmin, nn.Softplus, nn.Softshrink, nn.Softsign, nn.Tanh, nn.Tanhshrink]
dimension = {nn.LogSoftmax: dict(dim=1), nn.Softmax: dict(dim=1), nn.Softmin: dict(dim=1)}
LAYERS = {a.__name__: (lambda a=a: a(**dimension.get(a, {})), (8,)) for a in activations} | dict(
    Threshold=(lambda: nn.Threshold(.1, 0.), (8,)), Linear=(lambda: nn.Linear(8, 8), (8,)), Bilinear=(lambda: Call(lambda h, m: m(h, h), nn.Bilinear(8, 8, 5)), (8,)), Identity=(nn.Identity, (8,)),
    Conv1d=(lambda: nn.Conv1d(4, 3, 3), sequence), Conv2d=(lambda: nn.Conv2d(2, 3, 3, padding=1), image), Conv3d=(lambda: nn.Conv3d(2, 3, 3), volume), grouped=(lambda: nn.Conv2d(2, 4, 3, groups=2), image),
    dilated=(lambda: nn.Conv2d(2, 3, 2, dilation=2, stride=2), image), circular=(lambda: nn.Conv2d(2, 3, 3, padding=1, padding_mode='circular'), image), reflect=(lambda: nn.Conv2d(2, 3, 3, padding=1, padding_mode='reflect'), image),
    ConvTranspose1d=(lambda: nn.ConvTranspose1d(4, 3, 3), sequence), ConvTranspose2d=(lambda: nn.ConvTranspose2d(2, 3, 3, stride=2), image), ConvTranspose3d=(lambda: nn.ConvTranspose3d(2, 2, 2), volume),
    Unfold=(lambda: nn.Unfold(2), image), Fold=(lambda: nn.Fold((3, 3), 2), (8, 4)), PixelShuffle=(lambda: nn.PixelShuffle(2), (4, 2, 2)), PixelUnshuffle=(lambda: nn.PixelUnshuffle(2), image),
    ChannelShuffle=(lambda: nn.ChannelShuffle(2), (4, 2, 2)), nearest=(lambda: nn.Upsample(scale_factor=2), image), bilinear=(lambda: nn.Upsample(scale_factor=2, mode='bilinear'), image),
    bicubic=(lambda: nn.Upsample(scale_factor=2, mode='bicubic'), image), MaxPool1d=(lambda: nn.MaxPool1d(2), sequence), MaxPool2d=(lambda: nn.MaxPool2d(2), image), MaxPool3d=(lambda: nn.MaxPool3d(2), volume),
    AvgPool1d=(lambda: nn.AvgPool1d(2), sequence), AvgPool2d=(lambda: nn.AvgPool2d(2), image), AvgPool3d=(lambda: nn.AvgPool3d(2), volume), LPPool2d=(lambda: nn.LPPool2d(2, 2), image),
    AdaptiveAvgPool2d=(lambda: nn.AdaptiveAvgPool2d(3), image), AdaptiveMaxPool2d=(lambda: nn.AdaptiveMaxPool2d(2), image), AdaptiveAvgPool1d=(lambda: nn.AdaptiveAvgPool1d(2), sequence),
    ReflectionPad2d=(lambda: nn.ReflectionPad2d(1), image), ReplicationPad2d=(lambda: nn.ReplicationPad2d(1), image), ZeroPad2d=(lambda: nn.ZeroPad2d(1), image), CircularPad2d=(lambda: nn.CircularPad2d(1), image),
    BatchNorm1d=(lambda: nn.BatchNorm1d(8), (8,)), BatchNorm2d=(lambda: nn.BatchNorm2d(2), image), BatchNorm3d=(lambda: nn.BatchNorm3d(2), volume), cumulative=(lambda: nn.BatchNorm1d(8, momentum=None), (8,)),
    GroupNorm=(lambda: nn.GroupNorm(2, 4), (4, 3, 3)), InstanceNorm2d=(lambda: nn.InstanceNorm2d(2, affine=True), image), LayerNorm=(lambda: nn.LayerNorm(8), (8,)), LocalResponseNorm=(lambda: nn.LocalResponseNorm(2), image),
    normalize=(lambda: Call(F.normalize), (8,)), RNN=(lambda: nn.RNN(6, 5, batch_first=True), sequence), GRU=(lambda: nn.GRU(6, 5, batch_first=True, bidirectional=True), sequence), LSTM=(lambda: nn.LSTM(6, 5, 2, batch_first=True), sequence),
    LSTMCell=(lambda: Call(lambda h, m: m(h)[0], nn.LSTMCell(8, 5)), (8,)), GRUCell=(lambda: Call(lambda h, m: m(h), nn.GRUCell(8, 5)), (8,)),
    MultiheadAttention=(lambda: Call(lambda h, m: m(h, h, h)[0], nn.MultiheadAttention(4, 2, batch_first=True)), words), attention=(lambda: Call(lambda h: F.scaled_dot_product_attention(h, h, h)), words),
    TransformerEncoderLayer=(lambda: nn.TransformerEncoderLayer(4, 2, 8, 0., batch_first=True), words), TransformerEncoder=(lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 8, 0., batch_first=True), 1), words),
    TransformerDecoderLayer=(lambda: Call(lambda h, m: m(h, h), nn.TransformerDecoderLayer(4, 2, 8, 0., batch_first=True)), words), Dropout=(lambda: nn.Dropout(.3), (8,)), Dropout2d=(lambda: nn.Dropout2d(.3), image),
    AlphaDropout=(lambda: nn.AlphaDropout(.3), (8,)), RReLU=(nn.RReLU, (8,)), CosineSimilarity=(lambda: Call(lambda h, m: m(h, h.flip(1).square() + 1)[:, None]*h, nn.CosineSimilarity()), (8,)),
    PairwiseDistance=(lambda: Call(lambda h, m: m(h, h.flip(1) + 1)[:, None]*h, nn.PairwiseDistance()), (8,)), cdist=(lambda: Call(lambda h: torch.cdist(h, h + 1).sum(-1)), words), einsum=(lambda: Call(lambda h: torch.einsum('nij,nkj->nik', h, h)), words),
    cumsum=(lambda: Call(lambda h: h.cumsum(1)), (8,)), logsumexp=(lambda: Call(lambda h: h.logsumexp(-1)), words), sort=(lambda: Call(lambda h: h.sort(1).values), (8,)), topk=(lambda: Call(lambda h: h.topk(3).values), (8,)),
    std=(lambda: Call(lambda h: h/(h.std(1, keepdim=True) + 1)), (8,)), fft=(lambda: Call(lambda h: torch.fft.rfft(h).abs()), (8,)), grid_sample=(lambda: Call(lambda h: F.grid_sample(h, F.affine_grid(torch.eye(2, 3, dtype=h.dtype)[None].expand(len(h), 2, 3)*.7, h.shape, align_corners=False), align_corners=False)), image),
    solve=(lambda: Call(lambda h: torch.linalg.solve(h@h.mT + torch.eye(4, dtype=h.dtype), h)), (4, 3)), cholesky=(lambda: Call(lambda h: torch.linalg.cholesky(h@h.mT + torch.eye(4, dtype=h.dtype))), (4, 3)),
    weight_norm=(lambda: with_(parametrizations.weight_norm), (8,)), orthogonal=(lambda: with_(parametrizations.orthogonal), (8,)), positive=(lambda: with_(lambda m: parametrize.register_parametrization(m, 'weight', Positive())), (8,)),
    weight_normed_convolution=(lambda: with_(parametrizations.weight_norm, nn.Conv2d(2, 3, 3)), image), embedding=(lambda: Call(lambda h, m: m(torch.arange(4)).sum(0)*h, nn.Embedding(4, 8)), (8,)))
if hasattr(nn, 'RMSNorm'): LAYERS['RMSNorm'] = (lambda: nn.RMSNorm(8), (8,))
REFUSED = dict(Hardsigmoid=(nn.Hardsigmoid, (8,), 'net must be differentiable twice'), spectral_norm=(lambda: with_(parametrizations.spectral_norm), (8,), 'net must update its buffers by differentiable operations'),
               tracked_instance_norm=(lambda: nn.InstanceNorm2d(2, track_running_stats=True), image, 'net must update its buffers by differentiable operations'),
               embedding_bag=(lambda: Call(lambda h, m: m(torch.arange(8).reshape(2, 4)).sum(0)*h, nn.EmbeddingBag(8, 8)), (8,), 'net must be differentiable twice'))


@pytest.fixture(scope='module')
def syn(): return Synthetic.noise((6,), 3, ipc=2, epochs=4, lr=.2, inner='momentum', seed=0)


@pytest.mark.parametrize('name', LAYERS)
@pytest.mark.filterwarnings('ignore')
def test_the_hypergradient_through_a_layer(name, syn):
    layer, form = LAYERS[name]
    torch.manual_seed(0)
    c = check_gradient(Net(layer(), form), syn, directions=2)
    if 'of which torch says' in c.refused and torch.__version__ < '2.14': pytest.skip(c.refused)   # it can do more later
    assert c.ok and max(c.errors.values()) < 1e-5, repr(c)


@pytest.mark.parametrize('name', REFUSED)
@pytest.mark.filterwarnings('ignore')
def test_a_layer_that_is_refused(name, syn):
    layer, form, match = REFUSED[name]
    c = check_gradient(Net(layer(), form), syn, directions=2)
    assert c.refused.startswith(match), repr(c)


@pytest.mark.parametrize('size, channels, beta', [(4, 6, .75), (5, 3, .75), (1, 4, .75), (3, 5, .6), (9, 2, .75)])
def test_local_response_in_another_form(size, channels, beta):
    "The same numbers, first and second derivatives as torch's, alone and stacked; and torch's own again afterwards."
    from dd_nb.layers import plain, readied
    torch.manual_seed(0)
    m = nn.LocalResponseNorm(size, alpha=.3, beta=beta, k=1.3)
    fast = readied(copy.deepcopy(nn.Sequential(m)))
    x,v,w = (torch.randn(3, channels, 4, 2, dtype=torch.float64) for _ in range(3))
    def all_of(f):
        z = x.clone().requires_grad_()
        y = f(z)
        g, = torch.autograd.grad((y*v).sum(), z, create_graph=True)
        return y,g,*torch.autograd.grad((g*w).sum(), z)
    assert 'forward' in vars(fast[0])
    for a,b in zip(all_of(fast), all_of(m)): assert (a - b).abs().max() < 1e-12
    assert torch.allclose(torch.func.vmap(fast)(torch.stack([x, w])), torch.stack([m(x), m(w)]), atol=1e-12)
    if channels > 2: assert torch.allclose(fast(x[0][None].float()), m(x[0][None].float()), atol=1e-6)
    assert 'forward' not in vars(plain(fast)[0]) and torch.equal(fast(x), m(x))
