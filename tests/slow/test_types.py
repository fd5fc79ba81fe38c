"What users write with the public names, as a type checker sees it: right calls pass, wrong ones are found, and the stubs themselves are sound."
import re
from pathlib import Path

import pytest

root = Path(__file__).resolve().parent.parent.parent

RIGHT = '''
from pathlib import Path
import torch
from dd_nb.all import *

data = load_data('digits')
some, labels = data.batch(64, torch.Generator())
small = split_validation(data, .1, seed=1).to(dtype=torch.float64)
net: torch.nn.Module = LeNet(data.shape, data.n_classes)
source = FixedInit(net)
anyone = RandomInit(lambda: ConvNet(data.shape, data.n_classes, width=8), seed=0)
syn = Synthetic.noise(data.shape, data.n_classes, ipc=1, steps=1, epochs=3, lr=.2)
other = Synthetic.real(data, ipc=2, epochs=4, inner='momentum').softened('smoothed', 'softmax')
more = [Synthetic.means(data), Synthetic.kmeans(data), Synthetic.herding(data), syn.changed(lr=.1), syn.copy(), syn.shuffled(0)]
history = distill(syn, source, data, iters=300, n_valid=None, checkpoint=None, cbs=[TimeLimit(60)], average=.99)
distill(other, anyone, data, Unroll('recompute', window=10, compile=False), schedule=lambda it, iters: 1., clip=None, checkpoint=Path('run'))
for objective in (KernelRidge(), FeatureRidge(), GradientMatch('cosine', standard_augment(data)), DistributionMatch()): distill(syn, anyone, data, objective)
score = evaluate(syn, source, data, n_nets=3)
mean: float = score.mean
judged = benchmark([syn, other], data, dict(name='ConvNet', width=8), Protocol(epochs=10, lrs=(.01, .1)), n_nets=2).half
trained = syn.train(net)
syn.save('ten.safetensors')
again: Synthetic = Synthetic.load(Path('ten.safetensors'))
again.show(max_rows=2).savefig('ten.png')
images, lrs = again.images, again.lrs.tolist()
zoo: dict = list_zoo()
load_zoo('mnist-fixed-10', seed=1).meta
done, run, test = reproduce('demo', iters=3)
get_recipe('mnist-dm-1').about.upper()
'''
WRONG = {
    "load_data(3)": 'arg-type', "Synthetic.noise(data.shape)": 'call-arg', "syn.shwo()": 'attr-defined', "distill(syn, source, data, iters='many')": 'arg-type', "distill(syn, source, data, iter=3)": 'call-arg',
    "split_validation(syn)": 'arg-type', "Protocol(epochs='10')": 'arg-type', "evaluate(syn, source, data).best": 'attr-defined',
}


@pytest.fixture
def mypy(tree, new_env, tmp_path):
    env = new_env().reuse_packages()
    env.pip('install', '-q', 'mypy')
    env.pip('install', '-q', '--no-deps', tree)
    def check(program, *flags):
        "Lines that mypy prints for a program, or for files."
        paths = [tmp_path/'program.py'] if isinstance(program, str) else program
        if isinstance(program, str): paths[0].write_text(program, encoding='utf-8')
        code = 'import subprocess, sys; r = subprocess.run([sys.executable, "-m", "mypy", *sys.argv[1:]], capture_output=True, text=True); print(r.stdout + r.stderr)'
        return env('-c', code, '--ignore-missing-imports', '--check-untyped-defs', *flags, *paths, cwd=tmp_path).strip().splitlines()
    return check


def test_types(mypy, tree):
    said = mypy(RIGHT)
    assert said[-1].startswith('Success'), said
    head = RIGHT.split('some, labels')[0] + re.search(r'^net: .*?(?=^anyone)', RIGHT, re.M | re.S)[0] + re.search(r'^syn = .*', RIGHT, re.M)[0] + '\n'
    said = mypy(head + '\n'.join(WRONG))
    first = len(head.splitlines()) + 1
    for i, (line, kind) in enumerate(WRONG.items()): assert any(f'program.py:{first + i}: error' in s and f'[{kind}]' in s for s in said), (line, said)
    said = mypy(sorted((tree/'dd_nb').glob('*.pyi')), '--follow-imports=silent')
    assert said[-1].startswith('Success'), said
