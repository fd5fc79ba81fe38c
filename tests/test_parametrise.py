"S as a function of what is stored: gradients, files, runs, and what is refused."
import json
from dataclasses import dataclass

import pytest
import torch
from objectives import batch, data, relative, smooth, state64   # noqa: F401 - fixtures among them
from torch import nn

import dd_nb.soft_labels  # noqa: F401 - it gives S soft labels
from dd_nb.checkpoints import CannotGoOn
from dd_nb.core import BadArgument
from dd_nb.distillation import StopDistill, distill
from dd_nb.distribution_matching import DistributionMatch
from dd_nb.evaluation import evaluate
from dd_nb.format import read_tensors
from dd_nb.gradient_matching import GradientMatch
from dd_nb.inits import FixedInit, RandomInit
from dd_nb.kernel import FeatureRidge, KernelRidge
from dd_nb.networks import MLP
from dd_nb.parametrise import (Basis, Decoder, Formation, Parametrisation, Pixels, Poster, Quantised, pack_bits, spec_of_param,
                               unpack_bits)
from dd_nb.rules import loss_fn
from dd_nb.structure import functional
from dd_nb.synthetic import Synthetic
from dd_nb.train import trained
from dd_nb.unrolling import Unroll, unroll


def generator(): return nn.Sequential(nn.Linear(3, 64), nn.Tanh(), nn.Unflatten(1, (1, 8, 8)))


@dataclass(frozen=True)
class Spectrum(Parametrisation):
    "One of a user's own: the low frequencies of each image."
    keep: int = 3
    def start(self, images):
        f = torch.fft.rfft2(images.detach())[..., :self.keep, :self.keep]
        return dict(re=f.real, im=f.imag)
    def decode(self, stored, shape):
        f = torch.complex(stored['re'], stored['im'])
        return torch.fft.irfft2(nn.functional.pad(f, (0, shape[-1]//2 + 1 - self.keep, 0, shape[-2] - self.keep)), s=shape[-2:])


def kinds():
    torch.manual_seed(0)
    g = generator()
    return [Formation(2), Formation(3), Quantised(4), Quantised(8, patch=3), Quantised(5, of=Formation(2)), Basis(7), Formation(2, of=Basis(3)),
            Poster(44, 44, 4), Decoder(g, (3,), fit=5), Decoder(g, (3,), learn_module=True, fit=5), Spectrum()]


KINDS = kinds()


def ipc_for(param):
    if isinstance(param, Poster): return 10     # 100 windows
    return 9 if param == Formation(3) else 4


def set_of(data, param, steps=1, **kw):
    return Synthetic.real(data, ipc=ipc_for(param), steps=steps, epochs=4, lr=.05, **kw).to(dtype=torch.float64).parametrised(param)


def pixels_of(syn):
    "The same set with what networks see as plain pixels, to be learned."
    return syn.parametrised(None)


def through(syn, grad):
    "What a gradient by images means for what is stored, by autograd alone."
    stored = {k: v for k, v in syn.named_parameters().items() if k.startswith('images')}
    return torch.autograd.grad(syn.images, list(stored.values()), grad)


@pytest.mark.parametrize('param', KINDS, ids=repr)
@pytest.mark.parametrize('strategy', ['graph', 'hybrid', 'recompute', 'segments'])
def test_gradient_through_training_is_that_of_plain_autograd(data, batch, param, strategy):
    syn, state, (x, y) = set_of(data, param, steps=2, inner='momentum'), state64(data), batch
    ps = syn.parameters()
    got = torch.autograd.grad(unroll(syn, state, lambda s: loss_fn(s(x), y), strategy), ps)
    want = torch.autograd.grad(loss_fn(trained(syn, state, create_graph=True)(x), y), ps)
    for a, b in zip(got, want): assert relative(a, b) < 1e-8 and b.norm() > 0


@pytest.mark.parametrize('param', [p for p in KINDS if not isinstance(p, Quantised)], ids=repr)
def test_gradient_against_finite_differences(data, batch, param, check_against_differences):
    x, y = batch
    check_against_differences(lambda s: unroll(s, state64(data), lambda t: loss_fn(t(x), y), 'recompute'), set_of(data, param))


OBJECTIVES = [Unroll(window=2, place='last'), GradientMatch(), DistributionMatch(), DistributionMatch('scale_rotate'), KernelRidge(), FeatureRidge()]

@pytest.mark.parametrize('objective', OBJECTIVES, ids=lambda o: repr(o)[:40])
@pytest.mark.parametrize('param', [Formation(2), Quantised(4), Basis(7)], ids=repr)
def test_every_objective_takes_it(data, batch, param, objective):
    "The gradient by what is stored is the gradient by pixels, through the parametrisation."
    from dataclasses import replace
    state, syn = replace(state64(data), seed=3), set_of(data, param)
    plain = pixels_of(syn)
    by_images, = torch.autograd.grad(objective(plain, state, batch), [plain.images])
    stored = [v for k, v in syn.named_parameters().items() if k.startswith('images')]
    got = torch.autograd.grad(objective(syn, state, batch), stored)
    for a, b in zip(got, through(syn, by_images)): assert relative(a, b) < 1e-8 and b.norm() > 0


def test_trajectories_take_it(data, tmp_path):
    from dd_nb.trajectory_matching import TrajectoryMatch, record_experts
    experts = record_experts(lambda seed=None: smooth(data, seed), data, tmp_path, n=2, records=3, every=5, lr=.05, batch_size=32, progress=False)
    syn = Synthetic.real(data, ipc=4, epochs=4, lr=.05).parametrised(Formation(2))
    objective = TrajectoryMatch(experts, span=1, max_start=1)
    loss = objective(syn, functional(smooth(data)), data.batch(8, torch.Generator().manual_seed(0)))
    stored = syn.named_parameters()['images']
    assert torch.autograd.grad(loss, [stored])[0].norm() > 0 and stored.shape == (1, 10, 1, 8, 8)


@pytest.mark.parametrize('bits', range(1, 9))
def test_bits_are_packed_without_gaps(bits):
    q = torch.randint(2**bits, (37, 5), dtype=torch.uint8)
    packed = pack_bits(q, bits)
    assert len(packed) == -(-q.numel()*bits//8) and torch.equal(unpack_bits(packed, bits, q.numel()), q.flatten())


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize('param', KINDS, ids=repr)
def test_saved_and_loaded(data, param, dtype, tmp_path):
    "What networks see comes back bit for bit, again and again, with what is learned ready to be learned."
    syn = set_of(data, param).to(dtype=dtype)
    by_hand = dict(param=param) if isinstance(param, Decoder) else {}
    back = Synthetic.load(syn.save(tmp_path/'a.safetensors'), **by_hand)
    assert torch.equal(back.images, syn.images) and spec_of_param(back.param) == spec_of_param(param) and back.dims == syn.dims
    assert {k: v.shape for k, v in back.named_parameters().items()} == {k: v.shape for k, v in syn.named_parameters().items()}
    assert all(v.is_leaf and v.requires_grad for v in back.parameters()) and back.nbytes == syn.nbytes
    again = Synthetic.load(back.save(tmp_path/'b.safetensors'), **by_hand)
    assert torch.equal(again.images, syn.images)


def test_what_nbytes_says_is_what_the_file_has(data, tmp_path):
    for param in (None, Formation(2), Quantised(8), Quantised(3, of=Formation(2)), Basis(5)):
        syn = Synthetic.real(data, ipc=4).parametrised(param)
        tensors, head = read_tensors(syn.save(tmp_path/'a.safetensors'))
        kept = sum(v.nbytes for k, v in tensors.items() if k.partition('.')[0] in ('images', 'labels', 'raw_lrs'))
        assert kept == syn.nbytes and head['format'] == (3 if param is None else 4), param
    four = [Synthetic.real(data, ipc=4).parametrised(p).bytes_by_part()['images'] for p in (None, Formation(2), Quantised(8), Quantised(4))]
    assert four[0] == 4*four[1] and four[2] < .29*four[0] and four[3] < .18*four[0]


def test_copies_and_variants_keep_what_is_stored(data):
    syn = set_of(data, Quantised(3, of=Formation(2)))
    with torch.no_grad(): syn.stored[''].add_(.01*torch.randn_like(syn.stored['']))
    for other in (syn.copy(), syn.changed(lr=.1), syn.changed(epochs=2, lr=.1), syn.softened(), syn.minibatches(5)):
        assert torch.equal(other.stored[''], syn.stored['']) and other.stored[''] is not syn.stored[''] and other.param == syn.param
    assert syn.copy().to(dtype=torch.float32).images.dtype == torch.float32
    plain = syn.parametrised(None)
    assert torch.equal(plain.images, syn.images) and plain.param == Pixels()
    assert syn.changed(images=torch.zeros_like(plain.images)).param == Pixels()
    assert torch.equal(syn.shuffled(seed=1).images.sort(1).values, plain.shuffled(seed=2).images.sort(1).values)


def test_rounding_is_seen_by_the_network_and_not_by_the_gradient(data):
    syn = set_of(data, Quantised(2))
    g = torch.randn_like(syn.images)
    got, = torch.autograd.grad(syn.images, syn.parameters()[:1], g)
    assert torch.equal(got, g)
    assert all(len(x.unique()) <= 4 for x in syn.images.flatten(0, 1))
    flat = Quantised(8).decode({'': torch.full((1, 2, 1, 4, 4), .3)}, (1, 2, 1, 4, 4))   # an image of one colour has no range
    assert torch.equal(flat, torch.full((1, 2, 1, 4, 4), .3))


@pytest.mark.parametrize('param', [Formation(2), Quantised(4), Basis(7), Decoder(generator(), (3,), learn_module=True, fit=5)], ids=repr)
def test_distilling_learns_what_is_stored(data, param):
    syn = Synthetic.real(data, ipc=4, epochs=5, lr=.1).parametrised(param)
    before = {k: v.detach().clone() for k, v in syn.named_parameters().items()}
    history = distill(syn, FixedInit(MLP(data.shape, 10, hidden=(16,), seed=0)), data, iters=80, progress=False, batch_size=64, lr=.03, every=10)
    assert all(not torch.equal(v, before[k]) for k, v in syn.named_parameters().items())
    assert history.best_accuracy > history.accuracy[0] and history.snapshots[0][1].shape == syn.dims
    assert evaluate(syn, None, data).mean > .1


def test_a_run_that_was_cut_goes_on(data, tmp_path):
    def start(param): return Synthetic.real(data, ipc=4, epochs=2, lr=.1).parametrised(param)
    def run(syn, **kw):
        return distill(syn, RandomInit(lambda: MLP(data.shape, 10, hidden=(8,))), data, iters=12, every=4, batch_size=32, progress=False, n_eval=1, **kw)
    class Cut:
        def after_eval(self, loop):
            if loop.it == 8: raise StopDistill
    for i, param in enumerate((Quantised(4, of=Formation(2)), Basis(4))):
        whole, cut = start(param), start(param)
        run(whole)
        run(cut, checkpoint=tmp_path/str(i), cbs=[Cut()])
        again = start(param)
        run(again, checkpoint=tmp_path/str(i))
        assert torch.equal(again.images, whole.images)
    with pytest.raises(CannotGoOn, match='belongs to another run'): run(start(Formation(2)), checkpoint=tmp_path/'0')


@pytest.mark.parametrize('what,says', [(dict(name='Lost'), 'param of .* must be one of Pixels, Formation'),
                                       (dict(name='Formation', factor=0), 'factor must be at least 1'),
                                       (dict(name='Formation', factor=2, speed=3), "Formation with 'speed'"),
                                       (dict(name='Decoder', module='Sequential', latent=[3]), 'give it to Synthetic.load'),
                                       ('Formation', 'param of .* must be a Parametrisation')])
def test_files_that_name_no_parametrisation(data, tmp_path, what, says):
    from dd_nb.format import write_tensors
    path = Synthetic.real(data, ipc=4).parametrised(Formation(2)).save(tmp_path/'a.safetensors')
    tensors, head = read_tensors(path)
    write_tensors(path, tensors, {k: v for k, v in head.items() if k != 'format'} | dict(param=what), 'set')
    with pytest.raises(ValueError, match=says): Synthetic.load(path)


@pytest.mark.parametrize('dims', [[1, 40, 1, 8], [1, 40, 1, 2**20, 2**20], [0, 1, 1, 8, 8], 'x', [1, 36, 1, 8, 8], [1, 40, 1, 8., 8]])
def test_files_whose_images_cannot_be(data, tmp_path, dims):
    from dd_nb.format import write_tensors
    path = Synthetic.real(data, ipc=4).parametrised(Quantised(8, of=Formation(2))).save(tmp_path/'a.safetensors')
    tensors, head = read_tensors(path)
    write_tensors(path, tensors, {k: v for k, v in head.items() if k != 'format'} | dict(dims=dims), 'set')
    with pytest.raises(ValueError, match='is not a readable dd_nb file'): Synthetic.load(path)


def test_older_versions_read_what_they_can(data, tmp_path, monkeypatch):
    monkeypatch.setattr('dd_nb.format.FORMAT', 3)
    plain = Synthetic.real(data)
    assert torch.equal(Synthetic.load(plain.save(tmp_path/'a.safetensors')).images, plain.images)
    monkeypatch.undo()
    path = Synthetic.real(data, ipc=4).parametrised(Formation(2)).save(tmp_path/'b.safetensors')
    monkeypatch.setattr('dd_nb.format.FORMAT', 3)
    with pytest.raises(ValueError, match='format 4.*upgrade'): Synthetic.load(path)


def test_names_and_settings():
    assert repr(Quantised(4, of=Formation(2))) == 'Quantised(bits=4, of=Formation(factor=2))'
    assert json.loads(json.dumps(spec_of_param(Formation(2, of=Basis(3))))) == dict(name='Formation', factor=2, of=dict(name='Basis', k=3))
    for bad in (lambda: Formation('2'), lambda: Quantised(0), lambda: Quantised(4, patch=0), lambda: Basis(0), lambda: Poster(3, 3, 0),
                lambda: Formation(2, of='x'), lambda: Decoder(generator, (3,))):
        with pytest.raises(BadArgument): bad()


def test_explorers_folders_and_storage_take_it(data, tmp_path):
    from dd_nb.ranking import storage
    from dd_nb.widgets import explore_training
    syn = Synthetic.real(data, ipc=4, lr=.1).parametrised(Quantised(8, of=Formation(2)))
    assert storage(syn)['images'] == syn.bytes_by_part()['images'] and storage(syn)['total'] == syn.nbytes
    assert syn.show() is not None and syn.show_stored() is not None and syn.parametrised(None).show_stored() is not None
    assert set_of(data, Decoder(generator(), (3,), fit=1)).show_stored() is None
    explore_training(syn, FixedInit(MLP(data.shape, 10, seed=0)), data)
    a = evaluate(syn, RandomInit(lambda: MLP(data.shape, 10), 0), data, n_nets=2)
    assert a.all == evaluate(syn.parametrised(None), RandomInit(lambda: MLP(data.shape, 10), 0), data, n_nets=2).all


@pytest.mark.parametrize('param', [Pixels(), Formation(2), Basis(7), Poster(44, 44, 4)])
def test_rounding_a_learned_set_keeps_what_it_stores(data, param):
    "Starting anew from what networks see would lose what the pictures hold beyond that."
    syn = set_of(data, param)
    with torch.no_grad():
        for v in syn.stored.values(): v.add_(torch.randn(v.shape, generator=torch.Generator().manual_seed(0), dtype=v.dtype))
    q = syn.parametrised(Quantised(8, of=param))
    assert relative(q.images, syn.images) < .02 and all(torch.equal(v, syn.stored[k]) for k, v in q.stored.items())
    back = q.parametrised(param)   # what networks saw stays what they see
    assert back.param == param and torch.equal(back.images, q.images)
    coarser = q.parametrised(Quantised(4, of=param))
    assert coarser.param.bits == 4 and relative(coarser.images, syn.images) < .3


def test_another_way_to_make_images_starts_anew(data):
    syn = set_of(data, Formation(2))
    assert syn.parametrised(Basis(5)).param == Basis(5) and syn.parametrised(None).param == Pixels()
    assert torch.equal(syn.parametrised(None).images, syn.images)
