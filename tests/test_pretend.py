"On a GPU that is not there: no tensor of one device meets one of the other, whatever the library does. See `pretend`."
import pytest
import torch
from pretend import GPU, OnGPU, Refused, pretend, refused

from dd_nb.all import *   # noqa: F403
from dd_nb.synthetic import BN_POLICIES

SMALL = dict(iters=3, batch_size=32, every=2, n_eval=1, progress=False)


@pytest.fixture(autouse=True)
def nothing_refused():
    "Nothing may be refused, even where somebody has caught it and gone another way."
    refused.clear()
    yield
    assert not refused, refused[:3]

@pytest.fixture(scope='module')
def cpu(): return load_data('digits', size=8)

@pytest.fixture
def gpu(cpu):
    with pretend(): yield cpu.to('cuda')

def net(d, **kw): return ConvNet(d.shape, d.n_classes, width=4, depth=2, **kw)
def fresh(d, **kw): return RandomInit(lambda: net(d, **kw), seed=0)
def start(d, **kw): return Synthetic.means(d, **{**dict(ipc=2, steps=2, epochs=2, lr=.02, inner='momentum'), **kw})


def test_the_pretended_gpu_refuses():
    "What the other tests rest on."
    with pretend():
        x = torch.zeros(3, 4, device='cuda') + 1
        assert isinstance(x, OnGPU) and x.device == GPU and x.is_cuda and x.sum().item() == 12
        assert isinstance(x + torch.tensor(2.), OnGPU) and not isinstance(x.cpu(), OnGPU)
        for f in (lambda: x + torch.ones(4), lambda: torch.stack([x, torch.ones(3, 4)]), lambda: x.numpy(), lambda: torch.ones(2, 3) @ x,
                  lambda: torch.randn(3, generator=torch.Generator(), device='cuda'), lambda: torch.randn(3, generator=torch.Generator(device='cuda'))):
            with pytest.raises(Refused): f()
        w = torch.randn(4, 2, device='cuda', requires_grad=True)
        g, = torch.autograd.grad((x @ w).square().sum(), w, create_graph=True)
        h, = torch.autograd.grad(g.sum(), w)
        assert torch.allclose(h.cpu(), torch.full((4, 2), 24.))
        before = torch.get_rng_state()
        torch.rand(2, device='cuda')
        assert torch.equal(before, torch.get_rng_state())
    refused.clear()

OBJECTIVES = dict(unroll=lambda d: Unroll(), window=lambda d: Unroll(window=2), graph=lambda d: Unroll('graph', bf16=True), recompute=lambda d: Unroll('recompute'), hybrid=lambda d: Unroll('hybrid'), segments=lambda d: Unroll('segments'),
                  kip=lambda d: KernelRidge(), frepo=lambda d: FeatureRidge(), dc=lambda d: GradientMatch(), dsa=lambda d: GradientMatch(augment='color_crop_cutout_scale_rotate'),
                  dm=lambda d: DistributionMatch('flip'), ncfm=lambda d: DistributionMatch(distance='characteristic'),
                  ridge=lambda d: FrozenFeatures(net(d, seed=3), d), gradient=lambda d: FrozenFeatures(net(d, seed=3), d, inside='gradient'))

@pytest.mark.parametrize('name', OBJECTIVES)
def test_objectives(gpu, name):
    syn = start(gpu)
    history = distill(syn, fresh(gpu), gpu, OBJECTIVES[name](gpu), **SMALL)
    assert syn.images.is_cuda and history.loss[-1] == history.loss[-1]

def trajectories(d, folder): return TrajectoryMatch(record_experts(lambda: net(d), d, folder, n=2, records=4, every=2, batch_size=32, progress=False), span=1, max_start=2)

def test_trajectories(gpu, tmp_path):
    syn = start(gpu)
    distill(syn, fresh(gpu), gpu, trajectories(gpu, tmp_path), **SMALL)
    assert syn.images.is_cuda

def test_poison(gpu, tmp_path):
    pool = pretrain(lambda: net(gpu), gpu, tmp_path, n=4, epochs=1, progress=False)
    syn = Synthetic.real(gpu, ipc=1, lr=.02)
    distill(syn, pool, gpu, Poison(3, 5), **SMALL)
    attack(syn, pool, gpu, 3, 5, 1)

SOURCES = dict(fixed=lambda d: FixedInit(net(d, seed=0)), random=fresh, mixed=lambda d: Mixture(fresh(d), RandomInit(lambda: MLP(d.shape, d.n_classes))),
               aging=lambda d: AgingPool(fresh(d), size=2, max_age=4, steps=1, lr=.01, inner='adam'))

@pytest.mark.parametrize('name', SOURCES)
def test_sources(gpu, name):
    syn = start(gpu)
    distill(syn, SOURCES[name](gpu), gpu, **dict(SMALL, n_nets=2))
    evaluate(syn, SOURCES[name](gpu), gpu, 2, progress=False)
    assert syn.images.is_cuda

NETS = dict(batchnorm=dict(norm='batch'), layernorm=dict(norm='layer'), maxpool=dict(pool='max'), nonorm=dict(norm='none'))

@pytest.mark.parametrize('bn', BN_POLICIES)
def test_batchnorm(gpu, bn):
    syn = start(gpu)
    if bn in ('learned', 'calibrated'): syn = syn.with_bn(bn, net(gpu, norm='batch'), gpu)
    else: syn = syn.changed(bn=bn)
    distill(syn, fresh(gpu, norm='batch'), gpu, **SMALL)

def test_dropout(gpu):
    def make(): return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 16), torch.nn.ReLU(), torch.nn.Dropout(), torch.nn.Linear(16, 10))
    syn = start(gpu)
    distill(syn, RandomInit(make), gpu, **SMALL)
    scores = [benchmark(syn, gpu, RandomInit(make, seed=0), Protocol(epochs=3), 1, progress=False).all for _ in range(2)]
    assert scores[0] == scores[1]

PARAMS = dict(formation=lambda s: Formation(2), bits=lambda s: Quantised(8), both=lambda s: Quantised(8, of=Formation(2)), basis=lambda s: Basis(3))

def test_a_poster_and_a_decoder(gpu, tmp_path):
    for param, ipc in ((Poster(11, 12, 1), 2), (Decoder(torch.nn.Sequential(torch.nn.Linear(5, 64), torch.nn.Unflatten(1, (1, 8, 8))), (5,)), 1)):
        syn = Synthetic.means(gpu, ipc=ipc, steps=1, epochs=2, lr=.02).parametrised(param)
        distill(syn, fresh(gpu), gpu, **SMALL)
        assert syn.images.is_cuda

@pytest.mark.parametrize('name', PARAMS)
def test_parametrisations(gpu, name, tmp_path):
    syn = start(gpu).parametrised(PARAMS[name](gpu))
    distill(syn, fresh(gpu), gpu, **SMALL)
    syn.save(tmp_path/'s.safetensors')
    again = Synthetic.load(tmp_path/'s.safetensors')
    assert syn.images.is_cuda and not again.images.is_cuda and torch.allclose(again.images, syn.images.cpu(), atol=1e-5)

def test_soft_labels_and_every_rule(gpu):
    for inner in ('sgd', 'momentum', 'adam', 'adamw', 'rmsprop'):
        syn = start(gpu, inner=inner).softened('smoothed', form='softmax')
        distill(syn, fresh(gpu), gpu, outer=lambda g: torch.optim.RMSprop(g), **SMALL)
        assert syn.labels.is_cuda

def test_a_run_goes_on(gpu, cpu, tmp_path):
    "Cut off and taken up again, on the device and from a file; and the numbers are those of a CPU."
    class Stop:
        def after_step(self, loop):
            if loop.it == 3: raise KeyboardInterrupt
    def run(d, **kw):
        syn = start(d)
        distill(syn, fresh(d), d, **dict(SMALL, iters=4, average=.9, keep='last'), **kw)
        return syn.images.detach().cpu()
    whole = run(gpu)
    with pytest.raises((KeyboardInterrupt, Interrupted)): run(gpu, checkpoint=tmp_path, cbs=[Stop()])
    assert torch.equal(run(gpu, checkpoint=tmp_path), whole)

def test_judges(gpu):
    syn = start(gpu)
    evaluate(syn, fresh(gpu), gpu, 2, progress=False)
    tune_lr(syn, fresh(gpu), gpu, lrs=(.01, .02), n_nets=1, progress=False)
    for p in (Protocol(epochs=2), Protocol(epochs=2, lrs=(.01, .02)), Protocol(epochs=2, augment='standard'), Protocol(epochs=2, labels='expert'),
              Protocol(epochs=2, labels='anew', augment='standard')):
        assert benchmark(syn, gpu, dict(name='ConvNet', width=4, depth=2), p, 2, progress=False).mean >= 0
    cross_architecture(syn, gpu, dict(a=dict(name='MLP'), b=dict(name='ConvNet', width=4, norm='batch')), protocol=Protocol(epochs=1), n_nets=1, progress=False)
    for kind in ('real', 'means', 'kmeans', 'herding', 'nearest', 'kcenter'): coreset(kind, gpu, 2, net=net(gpu).to('cuda') if kind in ('herding', 'kcenter') else None)

def test_tasks(gpu):
    x,y = torch.randn(80, 6, generator=torch.Generator().manual_seed(0)),torch.randn(80, 2, generator=torch.Generator().manual_seed(1))
    for task,target in (('numbers', y), ('labels', (y > 0).float())):
        d = data_from_tensors(x, target, task=task).to('cuda')
        syn = Synthetic.real(d, ipc=4, epochs=3, learn=('images', 'labels', 'lrs'))
        distill(syn, RandomInit(lambda: MLP(d.shape, d.n_classes)), d, **SMALL)
        evaluate(syn, RandomInit(lambda: MLP(d.shape, d.n_classes)), d, 1, progress=False)

def test_the_default_device(tmp_path):
    "`torch.set_default_device('cuda')`, as some do at the top of a file, and nothing else said."
    with pretend():
        torch.set_default_device('cuda')
        try:
            d = load_data('digits', size=8)
            assert d.x_train.is_cuda
            for make in (start, lambda d: Synthetic.real(d, lr=.02), lambda d: Synthetic.noise(d.shape, 10), lambda d: start(d).softened('hard')):
                syn = make(d)
                distill(syn, fresh(d), d, **SMALL)
                assert syn.images.is_cuda
            for name in ('window', 'kip', 'dsa', 'ncfm', 'gradient'):
                objective = OBJECTIVES[name](d)
                distill(start(d), fresh(d), d, objective, **SMALL)
                objective(start(d), fresh(d).draw(1)[0], objective.batch(d, 64, None, False)).backward()   # and without the loop
            distill(start(d), fresh(d), d, trajectories(d, tmp_path), **SMALL)
            coreset('kmeans', d, 2)
            evaluate(syn, fresh(d), d, 1, progress=False)
            benchmark(syn, d, dict(name='ConvNet', width=4, depth=2), Protocol(epochs=1), 1, progress=False)
        finally: torch.set_default_device('cpu')

def small(): return load_data('digits', size=8)
def learned_labels():
    d = data_from_tensors(torch.randn(80, 6), torch.randn(80, 2), task='numbers')
    distill(Synthetic.real(d, ipc=4, epochs=3, learn=('images', 'labels', 'lrs')), RandomInit(lambda: MLP(d.shape, d.n_classes), seed=0), d, **SMALL)
def poisoned(folder):
    d = small()
    distill(Synthetic.real(d, ipc=1, lr=.02), pretrain(lambda: net(d), d, folder, n=4, epochs=1, progress=False), d, Poison(3, 5), **SMALL)
def from_a_file(folder):
    start(small()).parametrised(Quantised(8)).save(folder/'a.safetensors')
    evaluate(Synthetic.load(folder/'a.safetensors'), fresh(small()), small(), 1, progress=False)

BY_DEFAULT = dict(linear=lambda _: learn_points(*linear_problem(20, 4, seed=1), 5, torch.zeros(4, dtype=torch.float64, device='cpu'), iters=2), numbers=lambda _: learned_labels(), poison=poisoned, file=from_a_file, zoo=lambda _: load_zoo('mnist-fixed-10'),
                  texts=lambda _: data_from_texts(['good film', 'bad film']*8, [1, 0]*8, ['good film', 'bad film'], [1, 0]), gradcheck=lambda _: check_gradient(MLP((1, 8, 8), 10, seed=0), start(small())),
                  basis=lambda _: start(small()).parametrised(Basis(3)), reproduce=lambda _: reproduce('demo', iters=2, progress=False), analytic=lambda _: analytic_set(small().x_train, small().y_train, 10),
                  across=lambda _: cross_architecture(start(small()), small(), {'a': dict(name='MLP')}, protocol=Protocol(epochs=1), n_nets=1, progress=False), train=lambda _: start(small()).train(net(small())),
                  export=lambda folder: [start(small()).export(folder/f'x{k}', k) for k in ('folder', 'npz', 'pt')], show=lambda _: start(small()).show(), shuffled=lambda _: start(small()).minibatches(10).shuffled())

@pytest.mark.parametrize('name', BY_DEFAULT)
def test_more_by_the_default_device(name, tmp_path):
    with pretend():
        torch.set_default_device('cuda')
        BY_DEFAULT[name](tmp_path)

COMMANDS = dict(distill=lambda c: c.dd_distill('digits', ipc=1, iters=2, size='8', method='dd', net='MLP', netargs='{"hidden": [8]}', no_compare=True, out='a.safetensors', device='cuda', quiet=True),
                reproduce=lambda c: c.dd_reproduce('demo', iters=2, device='cuda', quiet=True))

@pytest.mark.parametrize('name', COMMANDS)
def test_commands(name, tmp_path, monkeypatch, capsys):
    from dd_nb import cli
    monkeypatch.chdir(tmp_path)
    with pretend():
        COMMANDS[name](cli)
        if name == 'distill': cli.dd_evaluate('a.safetensors', data='digits', nets=1, epochs=2, device='cuda', quiet=True)
    assert 'error' not in capsys.readouterr().err

def test_apples_gpu_is_refused():
    with pytest.raises(ValueError, match="device must be one .* got 'mps': Apple's GPU has no float64|float64"): load_data('digits', device='mps')

def test_free_memory_counts_what_torch_holds(monkeypatch):
    from dd_nb.choice import free_memory
    for k,v in dict(mem_get_info=(100, 1000), memory_reserved=50, memory_allocated=20).items(): monkeypatch.setattr(torch.cuda, k, lambda *a, v=v: v)
    assert free_memory(torch.device('cuda')) == 130

def test_one_gpu_a_process(monkeypatch):
    "Under torchrun each process takes the GPU of its place on the machine, and nccl; without GPUs gloo."
    import torch.distributed as dist
    from dd_nb.ranks import join_ranks
    said = []
    monkeypatch.setattr(dist, 'init_process_group', said.append)
    monkeypatch.setattr(dist, 'destroy_process_group', lambda: said.append('end'))
    monkeypatch.setattr(torch.cuda, 'set_device', said.append)
    for k,v in dict(RANK='3', WORLD_SIZE='4', LOCAL_RANK='1').items(): monkeypatch.setenv(k, v)
    with join_ranks('cuda') as device: assert device == torch.device('cuda', 1)
    with join_ranks('cpu') as device: assert device.type == 'cpu'
    assert said == [torch.device('cuda', 1), 'nccl', 'end', 'gloo', 'end']
