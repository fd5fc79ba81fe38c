"""The names that users type, each used once as they would: a script that does not change when the rooms do.

It was written before the rooms were rearranged and knows nothing of them: everything comes from `dd_nb.all`."""
import os
import subprocess
import sys

SCRIPT = '''
import torch
from dd_nb.all import *

data = load_data('digits', size=12)
assert data.shape == (1, 12, 12) and data.n_classes == 10
net = MLP(data.shape, data.n_classes, hidden=(8,), seed=0)
for make in (LeNet, ConvNet):
    kw = dict(width=4, depth=1, norm='instance') if make is ConvNet else {}
    shape = (1, 28, 28) if make is LeNet else data.shape
    assert isinstance(make(shape, data.n_classes, **kw), torch.nn.Module)
bias = next(m for m in LeNet((1, 28, 28), 10).modules() if isinstance(m, torch.nn.Conv2d)).bias
assert not bias.any()   # Xavier normal, zero bias

fixed = FixedInit(net)
source = RandomInit(lambda: MLP(data.shape, data.n_classes, hidden=(8,)), seed=1)
assert len(fixed.draw(2)) == len(source.draw(2)) == 2
pool = pretrain(lambda: MLP(data.shape, data.n_classes, hidden=(8,)), data, 'pool', n=4, epochs=1, progress=False)
assert isinstance(pool, PretrainedPool) and isinstance(pool[0], FixedInit)

syn = Synthetic.noise(data.shape, data.n_classes, ipc=1, steps=2, epochs=3, lr=.02)
assert syn.images.shape == (2, 10, *data.shape) and syn.labels.shape == (2, 10) and syn.lrs.shape == (6,)
assert syn.labels.dtype == torch.long and (syn.lrs > 0).all()
for start in (Synthetic.real, Synthetic.means, Synthetic.kmeans): assert start(data, ipc=1).n_steps

history = distill(syn, fixed, data, objective=Unroll(), iters=4, batch_size=32, progress=False, seed=0)
assert history.it[-1] == 4
distill(syn, source, data, iters=2, batch_size=32, device='cpu', dtype=torch.float64, cbs=[Recorder()], progress=False)
for strategy in ('auto', 'graph', 'hybrid', 'recompute', 'segments'):
    objective = Unroll(strategy=strategy, window=None, compile=False)
    loss = objective(syn, source.draw(1)[0].to(dtype=torch.float64), data.to(dtype=torch.float64).batch(16))
    assert loss.dim() == 0
    loss.backward()

distill(syn, fixed, data, iters=1, batch_size=32, progress=False)
score = evaluate(syn, fixed, data, n_nets=1)
assert 0 <= score.mean <= 1 and score.std >= 0 and len(score.all) == 1
assert evaluate(syn, None, data, n_nets=1).mean == score.mean
assert isinstance(syn.train(net), torch.nn.Module)

syn.save('ten.safetensors')
again = Synthetic.load('ten.safetensors')
assert torch.equal(again.images, syn.images)
assert hasattr(again.show(), 'savefig')
assert load_zoo('mnist-fixed-10').images.shape[1] == 10 and 'mnist-fixed-10' in list_zoo()
soft = Synthetic.noise(data.shape, data.n_classes).changed(labels=torch.full((1, 10, 10), .1))
assert soft.labels.shape == (1, 10, 10)
'''


def test_the_names_that_users_type(tmp_path):
    run = subprocess.run([sys.executable, '-W', 'ignore', '-c', SCRIPT], cwd=tmp_path, capture_output=True, text=True,
                         env=os.environ | dict(CI='1', OMP_NUM_THREADS='1', MPLBACKEND='agg'))
    assert run.returncode == 0, run.stderr
