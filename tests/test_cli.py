"The commands: in processes of their own, as a shell runs them, or, where only the answer counts, by the same scripts in this one."
import json
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import dd_nb.format   # noqa: F401 - it gives S `load`
from dd_nb.synthetic import Synthetic


def sh(cmd, *args, cwd=None):
    "Run one of the commands in a process of its own."
    env = {**os.environ, 'OMP_NUM_THREADS': '1', 'MPLBACKEND': 'agg'}
    return subprocess.run([Path(sys.executable).parent/cmd, *map(str, args)], capture_output=True, text=True, env=env, cwd=cwd)


@pytest.fixture
def here(monkeypatch, capsys):
    "As `sh`, in this process, which has imported torch already."
    threads = torch.get_num_threads()
    def run(cmd, *args, cwd=None):
        torch.set_num_threads(1)   # as `sh` has it: other numbers of threads round otherwise
        script = str(Path(sys.executable).parent/cmd)
        monkeypatch.setattr(sys, 'argv', [script, *map(str, args)])
        if cwd is not None: monkeypatch.chdir(cwd)
        code = 0
        try: runpy.run_path(script, run_name='__main__')
        except SystemExit as e: code = e.code or 0
        out = capsys.readouterr()
        return SimpleNamespace(returncode=code, stdout=out.out, stderr=out.err)
    yield run
    torch.set_num_threads(threads)


OF_OLD = '--net', 'LeNet', '--formation', 1, '--steps', 1, '--epochs', 3, '--inner', 'sgd'   # the paper's: one step of three epochs


@pytest.fixture(scope='module')
def ten(tmp_path_factory):
    "A small fixed-initialisation run, made by the command itself."
    path = tmp_path_factory.mktemp('cli')/'ten.safetensors'
    r = sh('dd_distill', 'digits', '--init', 'fixed', *OF_OLD, '--start', 'means', '--iters', 20, '--batch', 32, '--eta', .2, '--out', path, '--quiet')
    assert r.returncode == 0, r.stderr
    assert 'test Score(' in r.stdout and r.stderr == ''
    return path, r.stdout


def test_distill_writes_a_set_and_a_picture(ten):
    path, _ = ten
    syn = Synthetic.load(path)
    assert syn.images.shape == (1, 10, 1, 28, 28) and syn.init and syn.meta['source']['net']['name'] == 'LeNet'
    assert path.with_suffix('.png').read_bytes()[:4] == b'\x89PNG'


def test_evaluate_reproduces_the_score(ten, tmp_path, here):
    path, said = ten
    r = here('dd_evaluate', path, '--json', tmp_path/'a.json')
    assert r.returncode == 0, r.stderr
    score = json.loads((tmp_path/'a.json').read_text())['scores'][path.name]['LeNet']
    assert score['mean'] == Synthetic.load(path).meta['test']['mean'] and len(score['all']) == 1
    assert re.search(r'Score\([\d.]+%', r.stdout).group() in said
    r = here('dd_evaluate', path, '--netargs', '{"act": "relu"}')   # the weights come with the set
    assert r.returncode == 2 and 'netargs must be given with archs' in r.stderr
    r = here('dd_evaluate', path, '--archs', 'MLP', '--nets', 2, '--json', tmp_path/'b.json')
    assert r.returncode == 0 and len(json.loads((tmp_path/'b.json').read_text())['scores'][path.name]['MLP']['all']) == 2


def test_evaluate_by_a_protocol_beside_coresets(ten, tmp_path, here):
    path, _ = ten
    r = here('dd_evaluate', path, '--protocol', 'tuned', '--archs', 'LeNet, MLP', '--nets', 2, '--epochs', 3, '--compare', '--quiet', '--json', tmp_path/'a.json', '--plot', tmp_path/'a.png')
    assert r.returncode == 0, r.stderr
    out = json.loads((tmp_path/'a.json').read_text())
    assert list(out['scores']) == [path.name, 'random real', 'class means'] and out['protocol']['epochs'] == 3
    assert all(set(row) == {'LeNet', 'MLP'} and 0 <= row['MLP']['mean'] <= 1 and row['MLP']['lr'] in out['protocol']['lrs'] for row in out['scores'].values())
    assert (tmp_path/'a.png').read_bytes()[:4] == b'\x89PNG' and r.stdout.count('step size') == 6


def test_evaluate_of_what_others_made(ten, tmp_path, here):
    path, _ = ten
    s = Synthetic.load(path)
    torch.save((s.images.detach()[0], s.labels[0]), tmp_path/'peer.pt')
    args = '--data', 'digits', '--archs', 'MLP', '--nets', 2, '--epochs', 2, '--quiet'
    a, b = (here('dd_evaluate', f, *args, '--protocol', 'plain', '--json', tmp_path/'a.json') for f in (tmp_path/'peer.pt', path))
    assert a.returncode == b.returncode == 0, a.stderr + b.stderr
    assert re.search(r'Score.*', a.stdout).group() == re.search(r'Score.*', b.stdout).group()
    r = here('dd_evaluate', tmp_path/'peer.pt', '--data', 'digits', '--protocol', 'own')
    assert r.returncode == 2 and "protocol must be one of plain, tuned, augmented, hard, expert, anew for a set that has no schedule, got 'own'" in r.stderr


def test_evaluate_asks_what_soft_labels_are(ten, tmp_path, here):
    "A teacher's logits are no distributions; as plain targets they are judged by squared error."
    path, _ = ten
    s = Synthetic.load(path)
    torch.save(s.images.detach()[0], tmp_path/'images_best.pt')
    torch.save(9*torch.eye(10)[s.labels[0]] - 1, tmp_path/'labels_best.pt')
    args = 'dd_evaluate', tmp_path/'images_best.pt', '--data', 'digits', '--archs', 'MLP', '--nets', 1, '--epochs', 2, '--quiet'
    r = here(*args)
    assert r.returncode == 2 and len(r.stderr.splitlines()) == 1 and "labelsare must say what the labels are, 'logits'" in r.stderr
    r = here(*args, '--labelsare', 'nonsense')
    assert r.returncode == 2 and 'labelsare must be one of auto, plain, logits, probabilities' in r.stderr
    for how, loss in (('logits', 'cross_entropy'), ('plain', 'squared_error')):
        r = here(*args, '--labelsare', how, '--json', tmp_path/'a.json')
        assert r.returncode == 0 and json.loads((tmp_path/'a.json').read_text())['protocol']['loss'] == loss, r.stderr


def test_evaluate_by_the_steps_of_another_file(ten, tmp_path, here):
    "A list of (images, labels, step size) is trained on as our own file is: the same score to the last digit."
    path, _ = ten
    s = Synthetic.load(path)
    torch.save([(*(t.detach() for t in s.batch(i)[:2]), s.lrs[i:i+1].detach()) for i in range(s.n_steps)], tmp_path/'results.pth')
    args = '--archs', 'MLP', '--nets', 2, '--quiet', '--data', 'digits'
    a, b = (here('dd_evaluate', f, *args) for f in (tmp_path/'results.pth', path))
    assert a.returncode == b.returncode == 0, a.stderr + b.stderr
    assert re.search(r'Score.*', a.stdout).group() == re.search(r'Score.*', b.stdout).group()
    r = here('dd_evaluate', tmp_path/'results.pth', '--data', 'digits')
    assert r.returncode == 2 and 'pool or archs must be given' in r.stderr


def test_show(ten, tmp_path, here):
    path, _ = ten
    r = here('dd_show', path, '--out', tmp_path/'p.png')
    assert r.returncode == 0 and 'digits' in r.stdout and (tmp_path/'p.png').read_bytes()[:4] == b'\x89PNG'


def test_an_image_folder_of_ones_own_with_the_network_chosen(tmp_path, here):
    from torchvision.utils import save_image
    g = torch.Generator().manual_seed(0)
    for c in range(2):
        for i in range(12):
            x = torch.rand(3, 20, 20, generator=g)*.5
            x[c] += .5
            (tmp_path/'set'/f'class{c}').mkdir(parents=True, exist_ok=True)
            save_image(x, tmp_path/'set'/f'class{c}'/f'{i}.png')
    out = tmp_path/'new'/'own.safetensors'
    r = here('dd_distill', tmp_path/'set', '--out', out, '--iters', 3, '--batch', 8, '--netargs', '{"width": 8, "depth": 2}', '--quiet')
    assert r.returncode == 0, r.stderr
    syn = Synthetic.load(out)
    assert syn.meta['source']['net']['name'] == 'ConvNet' and syn.meta['data']['classes'] == ['class0', 'class1']
    for where, args in ((tmp_path/'new', ()), (tmp_path/'new', ('--data', tmp_path/'set')), (tmp_path, ())):   # the set knows where it was
        r = here('dd_evaluate', out, '--nets', 1, '--quiet', *args, cwd=where)
        assert r.returncode == 0 and 'Score(' in r.stdout, r.stderr
    (tmp_path/'set').rename(tmp_path/'moved')
    r = here('dd_evaluate', out, '--nets', 1, '--quiet', cwd=tmp_path/'new')
    assert r.returncode == 2 and "data must be the path" in r.stderr and "/set'" in r.stderr and len(r.stderr.splitlines()) == 1


def test_readmes_line_distils_grey_images_too(tmp_path, here):
    import shlex
    from torchvision.transforms.functional import to_pil_image
    readme = (Path(__file__).resolve().parent.parent/'README.md').read_text(encoding='utf-8')
    _, *args = shlex.split(re.search('^dd_distill my_images.*', readme, re.M)[0])
    args[args.index('--minutes') + 1] = .05
    for c in range(2):
        (tmp_path/'my_images'/f'class{c}').mkdir(parents=True)
        for i in range(8): to_pil_image(torch.rand(1, 40, 36)).save(tmp_path/'my_images'/f'class{c}'/f'{i}.png')
    r = here('dd_distill', *args, '--batch', 8, '--no-compare', '--netargs', '{"width": 4}', '--quiet', cwd=tmp_path)
    assert r.returncode == 0, r.stderr
    made = Synthetic.load(tmp_path/'my_set.safetensors').meta['source']['net']
    assert made['name'] == 'ConvNet' and made['shape'] == [1, 40, 36] and made['depth'] == 3 and made['width'] == 4


@pytest.mark.parametrize('cmd', ['dd_distill', 'dd_evaluate', 'dd_show', 'dd_export', 'dd_reproduce', 'dd_bench'])
def test_help(cmd, here):
    r = here(cmd, '--help')
    assert r.returncode == 0 and 'usage' in r.stdout


def test_lists(here):
    assert 'mnist-fixed-10' in here('dd_reproduce').stdout and 'time-to-90' in here('dd_bench').stdout


BAD = [
    (('dd_distill', 'mnits'), r"mnits.*did you mean 'mnist'|mnits"),
    (('dd_distill', 'digits', '--net', 'LeNett'), "LeNett"),
    (('dd_distill', 'digits', '--ipc', 0), 'ipc must be at least 1, got 0'),
    (('dd_distill', 'digits', '--ipc', 10**6), 'ipc'),
    (('dd_distill', 'digits', '--size', 8, '--net', 'LeNet'), '28'),
    (('dd_distill', 'digits', '--init', 'warm'), 'init must be one of random, fixed, pretrained'),
    (('dd_distill', 'digits', '--start', 'kaiser'), "start must be"),
    (('dd_distill', 'digits', '--inner', 'lion'), 'inner must be one of'),
    (('dd_distill', 'digits', '--eta', 0), 'eta must be a positive number'),
    (('dd_distill', 'digits', '--eta', 'nan'), 'eta must be a positive number'),
    (('dd_distill', 'digits', '--steplr', 'inf'), 'steplr must be a finite number'),
    (('dd_distill', 'digits', '--lr', '1e300'), 'lr must be a finite number'),
    (('dd_distill', 'digits', '--iters', 0), 'iters must be at least 1'),
    (('dd_distill', 'digits', '--batch', -3), 'batch must be at least 1'),
    (('dd_distill', 'digits', '--nets', 0), 'nets must be at least 1, got 0'),
    (('dd_distill', 'digits', '--init', 'pretrained', '--poolsize', 2), 'poolsize must be at least 3'),
    (('dd_distill', 'digits', '--init', 'pretrained', '--poolepochs', 0), 'poolepochs must be at least 1'),
    (('dd_distill', 'digits', '--init', 'pretrained', '--pooldata', 'nowhere'), 'pooldata must be one of'),
    (('dd_distill', 'digits', '--pool', 'nowhere'), "init must be 'pretrained' for pool"),
    (('dd_distill', 'digits', '--seed', -1), 'seed must be at least 0'),
    (('dd_distill', 'digits', '--netargs', '{"shape": [3, 4, 4]}'), "netargs must not hold 'shape'"),
    (('dd_distill', 'digits', '--device', 'meta'), "device must be one that computes"),
    (('dd_evaluate', 'mnist-fixed-10', '--labels', 'nothere.pt'), 'labels and scale must be left out'),
    (('dd_evaluate', 'mnist-fixed-10', '--protocol', 'foo'), 'protocol must be one of own, plain'),
    (('dd_evaluate', 'mnist-fixed-10', '--nets', 0), 'nets must be at least 1'),
    (('dd_evaluate', 'mnist-fixed-10', '--data', 'nowhere'), 'data must be one of'),
    (('dd_evaluate', 'usps-mnist-100', '--data', 'digits', '--size', 28), 'pool or archs must be given'),
    (('dd_show', 'peer.pt'), 'dd_evaluate reads those of others'),
    (('dd_show', 'mnist-fixed-10', '--rows', 0), 'rows must be at least 1'),
    (('dd_reproduce', 'demo', '--threads', -1), 'threads must be at least 0'),
    (('dd_distill', 'digits', '--netargs', '{'), 'netargs must be a JSON object'),
    (('dd_distill', 'digits', '--netargs', '{"colour": 3}'), 'colour'),
    (('dd_distill', 'digits', '--device', 'abacus'), 'device must be'),
    (('dd_distill', 'digits', '--out', '/proc/no/ten.safetensors'), 'cannot be written'),
    (('dd_distill', '/nowhere/at/all'), 'nowhere'),
    (('dd_evaluate', 'nowhere.safetensors'), "there is no file 'nowhere.safetensors'"),
    (('dd_evaluate', 'nowhere.pt', '--data', 'digits'), "there is no file 'nowhere.pt'"),
    (('dd_evaluate', 'nowhere.pt'), 'data must be given'),
    (('dd_evaluate', 'nowhere.pt', '--protocol', 'own'), 'data must be given'),
    (('dd_evaluate', 'mnist-fixed-10', '--protocol', 'best'), "protocol must be one of own, plain, tuned, augmented, hard, expert, anew, got 'best'"),
    (('dd_evaluate', 'mnist-fixed-10', '--compare', '--protocol', 'own'), 'protocol must be one of plain, tuned, augmented, hard, expert, anew for --compare'),
    (('dd_show', 'nowhere.safetensors'), "there is no file 'nowhere.safetensors'"),
    (('dd_reproduce', 'mnist-unfixed'), 'name must be one of'),
    (('dd_reproduce', 'demo', '--poolsize', 4), "poolsize must be left out for 'demo'"),
    (('dd_distill', 'digits', '--pooldata', 'mnits', '--init', 'pretrained'), "mnits"),
    (('dd_distill', 'digits', '--pooldata', 'digits'), "init must be 'pretrained' for pooldata"),
    (('dd_bench', 'everything'), 'name must be one of'),
]


@pytest.mark.parametrize('args, text', BAD, ids=[' '.join(map(str, a)) for a, _ in BAD])
def test_bad_input_is_one_line_and_exit_code_2(args, text, tmp_path, here):
    r = here(*args, cwd=tmp_path)
    assert r.returncode == 2, r.stderr
    assert len(r.stderr.strip().splitlines()) == 1 and re.search(text, r.stderr) and r.stdout == ''
    assert not list(tmp_path.iterdir()), 'nothing half-written'


def test_one_refusal_in_a_process_of_its_own(tmp_path):
    r = sh('dd_distill', 'digits', '--iters', 0, cwd=tmp_path)
    assert r.returncode == 2 and r.stdout == '' and len(r.stderr.strip().splitlines()) == 1 and 'iters must be at least 1' in r.stderr


def test_damaged_files_are_refused(ten, tmp_path, here):
    blob = ten[0].read_bytes()
    for name, b in (('short', blob[:-7]), ('text', b'hello'), ('empty', b'')):
        (tmp_path/name).write_bytes(b)
        for cmd in ('dd_evaluate', 'dd_show'):
            r = here(cmd, tmp_path/name, cwd=tmp_path)
            assert r.returncode == 2 and 'not a readable dd_nb file' in r.stderr and len(r.stderr.strip().splitlines()) == 1


TINY = ('digits', '--size', 8, '--net', 'MLP', '--method', 'dd', '--batch', 32, '--quiet')


def test_a_checkpoint_is_taken_up_and_another_run_refused(tmp_path, here):
    args = (*TINY, '--iters', 6, '--checkpoint', tmp_path/'run', '--out', tmp_path/'a.safetensors')
    assert here('dd_distill', *args).returncode == 0
    first = Synthetic.load(tmp_path/'a.safetensors')
    assert here('dd_distill', *args).returncode == 0                       # nothing left to do: the same result
    assert torch.equal(Synthetic.load(tmp_path/'a.safetensors').images, first.images)
    r = here('dd_distill', *args, '--lr', .2)
    assert r.returncode == 2 and 'belongs to another run: its lr was 0.02, not 0.2' in r.stderr and len(r.stderr.splitlines()) == 1


def test_a_policy_for_batchnorm(tmp_path, here):
    args = ('digits', '--net', 'ConvNet', '--netargs', '{"width": 4, "depth": 2, "norm": "batch"}', '--iters', 2, '--batch', 16, '--epochs', 2, '--quiet', '--out', tmp_path/'b.safetensors')
    r = here('dd_distill', *args, '--bn', 'learned')
    assert r.returncode == 0, r.stderr
    syn = Synthetic.load(tmp_path/'b.safetensors')
    assert syn.bn == 'learned' and len(syn.running_stats()) == 4
    assert here('dd_evaluate', tmp_path/'b.safetensors', '--nets', 2).returncode == 0
    r = here('dd_distill', *args, '--bn', 'running')
    assert r.returncode == 2 and 'bn must be one of tracked, learned, batch, calibrated, frozen' in r.stderr


def test_reproduce_writes_the_curve_and_the_scores(tmp_path, here):
    r = here('dd_reproduce', 'demo', '--iters', 40, '--quiet', '--out', tmp_path, '--json', tmp_path/'d.json')
    assert r.returncode == 0, r.stderr
    out = json.loads((tmp_path/'d.json').read_text())
    assert out['changes'] == {'iters': 40} and out['curve']['it'] == [0, 20, 40] and out['curve']['mean_accuracy'][0] is None
    assert all(0 < out['scores'][k]['mean'] < 1 for k in ('distilled', 'random real images', 'class means'))
    assert here('dd_reproduce', 'demo', '--json', tmp_path).returncode == 2


def test_distilling_for_pretrained_networks(tmp_path, here):
    args = (*TINY, '--init', 'pretrained', '--poolsize', 4, '--poolepochs', 1, '--iters', 4, '--start', 'kmeans', '--ipc', 2, '--out', tmp_path/'p.safetensors')
    r = here('dd_distill', *args)
    assert r.returncode == 0, r.stderr
    assert sorted(f.name for f in (tmp_path/'pool').iterdir()) == [f'net-{i:05}.safetensors' for i in range(4)]
    assert Synthetic.load(tmp_path/'p.safetensors').meta['source']['source'] == 'PretrainedPool'
    r = here('dd_evaluate', tmp_path/'p.safetensors')
    assert r.returncode == 2 and 'pool or archs must be given: the set was made for networks trained beforehand' in r.stderr
    r = here('dd_evaluate', tmp_path/'p.safetensors', '--pool', tmp_path/'pool', '--size', 8)
    assert r.returncode == 0 and 'MLP: Score(' in r.stdout, r.stderr
    r = here('dd_evaluate', tmp_path/'p.safetensors', '--pool', tmp_path/'pool', '--archs', 'MLP')
    assert r.returncode == 2 and 'archs and netargs must not be given with pool' in r.stderr
    r = here('dd_distill', *args, '--poolepochs', 2)
    assert r.returncode == 2 and 'trained otherwise' in r.stderr and len(r.stderr.splitlines()) == 1


@pytest.mark.slow
def test_under_torchrun_one_process_writes(tmp_path):
    start = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node=2', '--no-python', Path(sys.executable).parent/'dd_distill']
    env = {**os.environ, 'OMP_NUM_THREADS': '1', 'MPLBACKEND': 'agg'}
    out = [tmp_path/'two.safetensors', tmp_path/'one.safetensors']
    args = (*TINY, '--iters', 5, '--nets', 2)
    r = subprocess.run([*start, *map(str, args), '--out', out[0]], capture_output=True, text=True, env=env)
    assert r.returncode == 0, r.stderr
    assert r.stdout.count('saved ') == 1
    assert sh('dd_distill', *args, '--out', out[1]).returncode == 0
    two, one = (Synthetic.load(p).images for p in out)
    assert ((two - one).norm()/one.norm()).item() < 1e-3   # single precision
    pools = '--init', 'pretrained', '--poolsize', 4, '--poolepochs', 1, '--pool', tmp_path/'pool'
    r = subprocess.run([*start, *map(str, args + pools), '--out', tmp_path/'three.safetensors'], capture_output=True, text=True, env=env)
    assert r.returncode == 0 and r.stdout.count('saved ') == 1, r.stderr
    r = subprocess.run([*start, *map(str, args), '--out', tmp_path/'x'/'y.safetensors', '--net', 'Nothing'], capture_output=True, text=True, env=env)
    assert r.returncode != 0 and 'error: ' in r.stderr


def test_a_run_that_was_cut_off_goes_on_by_itself(tmp_path, here):
    "Ctrl-C keeps the state and says how to go on, the same command goes on, and the folder goes when the result is there; --anew begins anew, --resume insists."
    out, kept = tmp_path/'a.safetensors', tmp_path/'a.run'
    args = (*TINY, '--iters', 250, '--out', out)
    def cut(number):
        p = subprocess.Popen([Path(sys.executable).parent/'dd_distill', *map(str, args)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        while p.poll() is None and len(list(kept.glob('step-*'))) < 2: time.sleep(.02)
        p.send_signal(number)
        said = p.communicate()[1]
        assert p.returncode == 130 and 'interrupted at outer step' in said and said.strip().endswith('goes on from there: give the same command again') and len(said.splitlines()) == 1, said
        assert len(Synthetic.load(out)) == 10 and kept.is_dir()   # the best so far can be used
    def again(*more): return here('dd_distill', *args, *more)
    r = again('--resume')
    assert r.returncode == 2 and 'resume needs a run that was cut off' in r.stderr
    cut(signal.SIGINT)
    r = again('--resume', '--anew')
    assert r.returncode == 2 and 'exclude each other' in r.stderr
    r = again('--lr', '.2')
    assert r.returncode == 2 and 'belongs to another run' in r.stderr and len(r.stderr.splitlines()) == 1 and kept.is_dir()
    r = again('--start', 'noise')
    assert r.returncode == 2 and 'belongs to another run: its start was' in r.stderr
    r = again('--anew')
    assert r.returncode == 0 and not r.stderr and out.exists() and not kept.exists()
    out.unlink()
    cut(signal.SIGTERM)
    (kept/'notes.txt').write_text('kept by somebody else')
    r = again('--resume')
    assert r.returncode == 0 and 'going on with the run in' in r.stderr and out.exists() and [f.name for f in kept.iterdir()] == ['notes.txt']
    whole = tmp_path/'b.safetensors'
    assert here('dd_distill', *TINY, '--iters', 250, '--out', whole).returncode == 0
    assert torch.equal(Synthetic.load(out).images, Synthetic.load(whole).images)


def test_sentences_of_ones_own_with_learned_labels(here, tmp_path):
    out, mine = tmp_path/'s.safetensors', tmp_path/'mine.tsv'
    mine.write_text(''.join(f'animal\tthe {w} eats here\nmachine\tthe {v} rusts there\n' for w in ('cat', 'dog', 'hen') for v in ('car', 'jet', 'bus'))*4)
    r = here('dd_distill', mine, '--out', out, '--labels', 'softmax', '--iters', 5, '--netargs', json.dumps(dict(width=4)), '--quiet')
    assert r.returncode == 0, r.stderr
    syn = Synthetic.load(out)
    assert syn.label_form == 'softmax' and 'labels' in syn.learn and syn.meta['source']['net']['name'] == 'TextCNN' and syn.meta['data']['classes'] == ['animal', 'machine']
    r = here('dd_evaluate', out, '--data', mine)
    assert r.returncode == 0 and '%' in r.stdout, r.stderr
    r = here('dd_show', out, '--out', tmp_path/'s.png')
    assert r.returncode == 0 and 'the' in r.stdout, r.stderr
    r = here('dd_distill', '--labels', 'fuzzy')
    assert r.returncode == 2 and 'labels must be one of hard, plain, softmax' in r.stderr


def test_nothing_of_the_users_is_written_over(ten, tmp_path, here):
    "No output is an input, lies among the images, or is another output."
    from torchvision.utils import save_image
    path, _ = ten
    for c in 'ab':
        (tmp_path/'set'/c).mkdir(parents=True)
        for i in range(8): save_image(torch.rand(3, 12, 12), tmp_path/'set'/c/f'{i}.png')
    (tmp_path/'s.tsv').write_text('good\ta fine thing\nbad\ta poor thing\n'*8)
    own = tmp_path/'own.safetensors'
    own.write_bytes(path.read_bytes())
    before = {p: p.read_bytes() for p in tmp_path.rglob('*') if p.is_file()}
    for cmd, match in ((('dd_distill', 'set', '--out', 'set/a/0.png'), "out must be another file than data and lie outside it, got 'set/a/0.png'"), (('dd_distill', 's.tsv', '--out', 's.tsv'), 'out must be another file than data'),
                       (('dd_distill', 'set', '--out', 'set/a/new'), 'out must be another'), (('dd_distill', 'set', '--out', 'set/c/new.safetensors'), 'out must be another'), (('dd_distill', 'set', '--out', 'set/new'), "checkpoint must be another file than data and lie outside it, got 'set/new.run'"), (('dd_distill', 'set', '--out', 'x', '--checkpoint', 'x.png'), 'checkpoint must be another file than the picture'), (('dd_show', 'own.safetensors', '--out', 'own.safetensors'), 'out must be another file than file'),
                       (('dd_evaluate', 'own.safetensors', '--json', 'own.safetensors'), 'json must be another file than file'), (('dd_evaluate', 'own.safetensors', '--json', 'x', '--plot', 'x'), 'plot must be another file than json'),
                       (('dd_reproduce', 'demo', '--iters', 1, '--out', '.', '--json', 'demo.safetensors'), 'json must be another file than the result')):
        r = here(*cmd, cwd=tmp_path)
        assert r.returncode == 2 and match in r.stderr and len(r.stderr.splitlines()) == 1, (cmd, r.stderr)
    assert {p: p.read_bytes() for p in tmp_path.rglob('*') if p.is_file()} == before and not (tmp_path/'set'/'c').exists()


def test_names_with_dots_and_tildes_keep_apart(tmp_path, monkeypatch, here):
    monkeypatch.setenv('HOME', str(tmp_path))
    for k in ('.1', '.2'):
        r = here('dd_distill', *TINY, '--iters', 1, '--out', f'~/lr0{k}')
        assert r.returncode == 0, r.stderr
    assert {p.name for p in tmp_path.iterdir() if p.name[0] != '.'} == {f'lr0.{k}{end}' for k in (1, 2) for end in ('', '.png', '.html')}


def test_too_large_for_the_memory(tmp_path, here):
    r = here('dd_distill', 'digits', '--start', 'noise', '--ipc', 10**9, cwd=tmp_path)
    assert r.returncode == 1 and r.stderr.startswith('error: there is not enough memory for this') and len(r.stderr.splitlines()) == 1


def test_class_names_are_not_formulas(tmp_path, here):
    from torchvision.utils import save_image
    for c in ('$100', r'$\frac$', 'x^{'):
        (tmp_path/'money'/c).mkdir(parents=True)
        for i in range(6): save_image(torch.rand(3, 12, 12), tmp_path/'money'/c/f'{i}.png')
    r = here('dd_distill', 'money', '--net', 'MLP', '--iters', 1, '--batch', 4, '--quiet', cwd=tmp_path)
    assert r.returncode == 0 and (tmp_path/'distilled.png').exists() and r.stderr == '', r.stderr


def test_other_data_of_the_same_name_is_not_judged_on(tmp_path, here):
    from torchvision.utils import save_image
    for place, n in (('one', 8), ('two', 9)):
        for c in range(2):
            (tmp_path/place/'digits'/f'{c}').mkdir(parents=True)
            for i in range(n): save_image(torch.rand(1, 28, 28), tmp_path/place/'digits'/f'{c}'/f'{i}.png')
    assert here('dd_distill', tmp_path/'one'/'digits', '--net', 'MLP', '--iters', 1, '--batch', 4, '--quiet', '--out', tmp_path/'d.safetensors').returncode == 0
    r = here('dd_evaluate', tmp_path/'d.safetensors', cwd=tmp_path/'two')   # neither scikit-learn's digits nor those beside it
    assert r.returncode == 2 and "data must be the path of what" in r.stderr
    assert here('dd_evaluate', tmp_path/'d.safetensors', '--data', tmp_path/'one'/'digits', '--nets', 1).returncode == 0


def test_another_run_in_the_way_is_answered_with_the_option(tmp_path, here):
    args, cmd = (*TINY, '--iters', 30, '--out', tmp_path/'a.safetensors', '--quiet'), 'dd_distill'
    class Cut:
        def after_step(self, loop):
            if loop.it == 3: raise KeyboardInterrupt
    from dd_nb.distillation import distill
    from dd_nb.data import load_data
    kept = tmp_path/'a.run'
    from dd_nb.inits import FixedInit
    from dd_nb.networks import MLP
    d = load_data('digits')
    try: distill(Synthetic.real(d, ipc=1), FixedInit(MLP(d.shape, 10)), d, iters=30, every=1, progress=False, checkpoint=kept, cbs=[Cut()])
    except KeyboardInterrupt: pass
    r = here(cmd, *args)
    assert r.returncode == 2 and 'belongs to another run' in r.stderr and r.stderr.strip().endswith('; --anew begins anew, and with the options of then it goes on'), r.stderr
    assert here(cmd, *args, '--anew').returncode == 0 and not kept.exists()


def test_architectures_with_a_comma_and_files_from_others_editors(ten, tmp_path, here):
    path, _ = ten
    r = here('dd_evaluate', path, '--protocol', 'plain', '--epochs', 1, '--nets', 1, '--archs', 'ConvNet, no norm, MLP,')
    assert r.returncode == 0 and 'ConvNet, no norm: Score' in r.stdout and 'MLP: Score' in r.stdout, r.stderr
    from dd_nb.data import load_data
    said = '\ufeffgood\ta fine\u2028thing\r\n\r\nbad\ta poor thing\r\n'
    (tmp_path/'m.TSV').write_bytes((said + said[1:]*7).encode())
    d = load_data(tmp_path/'m.TSV')
    assert d.classes == ['bad', 'good'] and len(d.y_train) + len(d.y_test) == 16 and d.name == 'm.TSV'
    (tmp_path/'u.tsv').write_text('good\tone two\nbad\tthree four\n' + 'good\tfive six\nbad\tseven eight\n')
    with pytest.raises(ValueError, match='min_count must leave words that occur beside each other'): load_data(tmp_path/'u.tsv')
    (tmp_path/'l.tsv').write_bytes('good\tcaf\xe9\n'.encode('latin-1')*4)
    with pytest.raises(ValueError, match="l.tsv' must be a text file in UTF-8"): load_data(tmp_path/'l.tsv')


def test_a_reader_that_has_seen_enough(tmp_path):
    r = subprocess.run(f'{Path(sys.executable).parent/"dd_reproduce"} | head -1', shell=True, capture_output=True, text=True)
    assert r.stdout.startswith('demo') and r.stderr == ''


def test_the_data_of_a_set_are_known_by_their_contents(tmp_path, here):
    "A folder of the same name, classes and numbers, in which one image has changed; a whitened set finds its data again."
    from torchvision.utils import save_image
    g = torch.Generator().manual_seed(0)
    for c in range(2):
        (tmp_path/'set'/f'class{c}').mkdir(parents=True)
        for i in range(9): save_image(torch.rand(1, 8, 8, generator=g), tmp_path/'set'/f'class{c}'/f'{i}.png')
    for out, more in (('plain.safetensors', ()), ('white.safetensors', ('--zca',))):
        assert here('dd_distill', 'set', '--net', 'MLP', '--iters', 1, '--batch', 8, '--quiet', '--out', out, *more, cwd=tmp_path).returncode == 0
        r = here('dd_evaluate', out, '--nets', 2, '--quiet', cwd=tmp_path)
        assert r.returncode == 0, r.stderr
    save_image(torch.zeros(1, 8, 8), tmp_path/'set'/'class0'/'0.png')
    r = here('dd_evaluate', 'plain.safetensors', '--nets', 2, '--quiet', cwd=tmp_path)
    assert r.returncode == 2 and r.stderr == "error: data must be the path of what plain.safetensors was made for: here 'set' has other contents, classes, split or normalisation\n"
    r = here('dd_evaluate', 'plain.safetensors', '--nets', 2, '--quiet', '--data', 'set', cwd=tmp_path)
    assert r.returncode == 0 or 'another normalisation' in r.stderr   # who names the data knows


def test_commands_say_what_came_of_the_networks(tmp_path, here):
    "Networks that ended in NaN or answer one class, and balanced accuracy where classes differ in size: with the score, and in the JSON file."
    x, y = torch.randn(20, 1, 8, 8), torch.arange(20) % 10
    torch.save((1e20*x, y), tmp_path/'far.pt')
    r = here('dd_evaluate', tmp_path/'far.pt', '--data', 'digits', '--size', 8, '--archs', 'MLP', '--nets', 2, '--epochs', 4, '--json', tmp_path/'far.json', '--scale', 'normalised')
    assert r.returncode == 0 and '; 2 of 2 networks ended in NaN or infinity)' in r.stdout and r.stderr == ''
    s = json.loads((tmp_path/'far.json').read_text())['scores']['far.pt']['MLP']
    assert s['diverged'] == 2 and s['constant'] == 0 and 0 < s['balanced'] < .2 and s['largest'] is None
    from torchvision.utils import save_image
    for c, n in enumerate((40, 8, 4)):
        (tmp_path/'skew'/f'class{c}').mkdir(parents=True)
        for i in range(n): save_image(torch.rand(1, 8, 8), tmp_path/'skew'/f'class{c}'/f'{i}.png')
    r = here('dd_distill', 'skew', '--net', 'MLP', '--iters', 1, '--batch', 8, '--quiet', cwd=tmp_path)
    assert r.returncode == 0 and re.search(r'test Score\(.*; balanced \d+\.\d+%.*; always answering the largest class would score', r.stdout), r.stdout
    assert {'balanced', 'largest'} < set(Synthetic.load(tmp_path/'distilled.safetensors').meta['test'])
    r = here('dd_distill', 'digits', '--size', 8, '--net', 'MLP', '--init', 'pretrained', '--poolsize', 3, '--poolepochs', 1, '--iters', 1, '--quiet', '--pool', tmp_path/'pool', '--seed', 1, cwd=tmp_path)
    assert r.returncode == 0 and r.stderr == ''


def test_images_of_images_in_few_bits(here, tmp_path):
    "What --formation and --bits store, through every command that takes a set."
    path = tmp_path/'few.safetensors'
    r = here('dd_distill', 'digits', '--size', 8, '--net', 'MLP', '--formation', 2, '--bits', 6, '--iters', 3, '--batch', 32, '--quiet', '--out', path)
    assert r.returncode == 0, r.stderr
    syn = Synthetic.load(path)
    assert syn.dims == (1, 40, 1, 8, 8) and repr(syn.param) == 'Quantised(bits=6, of=Formation(factor=2))'
    assert syn.bytes_by_part()['images'] == 10*(8*8*6/8 + 8) + 20
    r = here('dd_show', path, cwd=tmp_path)
    assert r.returncode == 0 and f'bytes: {syn.nbytes}' in r.stdout and (tmp_path/'few-stored.png').read_bytes()[:4] == b'\x89PNG'
    r = here('dd_evaluate', path, '--nets', 2, '--quiet')
    assert r.returncode == 0 and 'Score(' in r.stdout, r.stderr
    for args, says in ((('--formation', 0), 'formation must be at least 1'), (('--bits', 9), 'bits must be at most 8'), (('--formation', 9), 'factor must be at most the 8 pixels')):
        r = here('dd_distill', 'digits', '--size', 8, '--net', 'MLP', '--iters', 1, '--out', tmp_path/'x.safetensors', '--quiet', *args)
        assert r.returncode == 2 and says in r.stderr and not (tmp_path/'x.safetensors').exists()


# --- so many minutes ----------------------------------------------------------------------------------------------------

@pytest.fixture(scope='module')
def discs(tmp_path_factory):
    "A folder of three classes of small colour pictures that are not square."
    from PIL import Image
    root = tmp_path_factory.mktemp('own')/'discs'
    for i in range(60):
        c = i % 3
        (root/'rgb'[c]).mkdir(parents=True, exist_ok=True)
        yy, xx = torch.meshgrid(torch.arange(12), torch.arange(18), indexing='ij')
        im = torch.zeros(12, 18, 3, dtype=torch.uint8)
        im[((yy - 6)**2 + (xx - 9)**2) < 10 + i % 7, c] = 255
        Image.fromarray(im.numpy()).save(root/'rgb'[c]/f'{i}.png')
    return root


SMALL = '--net', 'ConvNet', '--netargs', '{"width": 4, "depth": 1}'


def test_a_folder_and_some_seconds_are_enough(discs, tmp_path, here):
    "It says what it took and what it chose, compares, and leaves a set, a picture and a report."
    r = here('dd_distill', discs, '--minutes', .1, *SMALL, '--out', 'd.safetensors', '--quiet', cwd=tmp_path)
    assert r.returncode == 0 and r.stderr == '', r.stderr
    for said in (f'discs in {discs}: 42 training and 18 test examples of 3x12x18 numbers', '3 classes: b 14, g 14, r 14', 'method DistributionMatch: for images it gains more a minute',
                 'recipe {"name": "discs-dm-1"', 'field protocol:', 'own schedule:', '  random real', '  class means', '  herding', '  distilled',
                 'the distilled set ', 'validation ', 'saved d.safetensors, d.png and d.html'):
        assert said in r.stdout, said
    assert sorted(p.name for p in tmp_path.iterdir()) == ['d.html', 'd.png', 'd.safetensors']
    syn = Synthetic.load(tmp_path/'d.safetensors')
    assert syn.meta['data']['place'] == str(discs) and syn.meta['compared']['field protocol']['distilled']['networks'] >= 2
    assert 'Was it worth it?' in (tmp_path/'d.html').read_text()
    # it is known from elsewhere, and the recipe that was printed can be given again
    r2 = here('dd_evaluate', tmp_path/'d.safetensors', '--nets', 2, cwd='/')
    assert r2.returncode == 0 and 'd.safetensors on discs, ConvNet: Score(' in r2.stdout, r2.stderr
    line = re.search('^recipe (.*)$', r.stdout, re.M)[1]
    r3 = here('dd_distill', discs, '--recipe', line, '--iters', 2, '--out', 'e.safetensors', '--quiet', cwd=tmp_path)
    assert r3.returncode == 0 and Synthetic.load(tmp_path/'e.safetensors').order is None
    steps = Synthetic.load(tmp_path/'d.safetensors').meta['recipe']['distill']['iters']
    (tmp_path/'r.json').write_text(line.replace(f'"iters": {steps}', '"iters": 3'))
    r5 = here('dd_distill', discs, '--recipe', tmp_path/'r.json', '--no-compare', '--out', 'g.safetensors', '--quiet', cwd=tmp_path)   # by its own number of steps
    assert r5.returncode == 0 and 'of 3, ' in r5.stdout and Synthetic.load(tmp_path/'g.safetensors').meta['outer_steps'] == 3, r5.stdout
    r4 = here('dd_distill', discs, '--recipe', tmp_path/'d.safetensors', '--iters', 2, '--out', 'f.safetensors', '--quiet', cwd=tmp_path)
    assert r4.returncode == 0 and torch.equal(Synthetic.load(tmp_path/'f.safetensors').images, Synthetic.load(tmp_path/'e.safetensors').images)


@pytest.mark.parametrize('method', ['dm', 'frepo', 'kip'])
def test_any_method_by_name(discs, tmp_path, here, method):
    r = here('dd_distill', discs, '--method', method, '--minutes', .05, '--no-compare', *SMALL, '--out', 'd.safetensors', '--quiet', cwd=tmp_path)
    assert r.returncode == 0 and r.stderr == '' and 'as asked' in r.stdout and 'field protocol' not in r.stdout, r.stderr


def test_ctrl_c_at_half_time_says_how_good_it_is(discs, tmp_path):
    cmd = [str(Path(sys.executable).parent/'dd_distill'), str(discs), '--minutes', '5', *SMALL, '--out', 'd.safetensors', '--quiet']
    p = subprocess.Popen(cmd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    while p.poll() is None and len(list(tmp_path.glob('d.run/step-*'))) < 2: time.sleep(.05)
    p.send_signal(signal.SIGINT)
    out, err = p.communicate()
    assert p.returncode == 130 and 'goes on from there' in err and 'validation ' in out and 'saved d.safetensors' in out, err
    assert len(Synthetic.load(tmp_path/'d.safetensors')) == 3 and (tmp_path/'d.html').exists() and (tmp_path/'d.run'/'plan.json').exists()


def test_the_shape_of_images_is_kept(discs, tmp_path, here):
    r = here('dd_distill', discs, '--size', 16, '--iters', 1, *SMALL, '--out', 'd.safetensors', '--quiet', cwd=tmp_path)
    assert r.returncode == 0 and '60 of 60 images have another shape than 16x16: they keep theirs and are padded' in r.stderr
    r = here('dd_distill', discs, '--size', '9x6', '--iters', 1, *SMALL, '--out', 'd.safetensors', '--quiet', cwd=tmp_path)
    assert r.returncode == 0 and r.stderr == '' and 'examples of 3x6x9 numbers' in r.stdout
    for bad in ('9x', 'x', '3x4x5', 'big', '-4'):
        r = here('dd_distill', discs, f'--size={bad}', '--iters', 1, cwd=tmp_path)
        assert r.returncode == 2 and 'size must' in r.stderr and len(r.stderr.splitlines()) == 1, bad


def test_files_that_cannot_be_read_are_listed_together_and_can_be_skipped(discs, tmp_path, here):
    mine = tmp_path/'mine'
    shutil.copytree(discs, mine)
    for k in (0, 3, 6): (mine/'r'/f'{k}.png').write_bytes(b'no picture')
    r = here('dd_distill', mine, '--iters', 1, *SMALL, '--quiet', cwd=tmp_path)
    assert r.returncode == 2 and all(f'{k}.png' in r.stderr for k in (0, 3, 6)) and '3 of 60 files cannot be read' in r.stderr
    r = here('dd_distill', mine, '--skip', '--iters', 1, *SMALL, '--out', 's.safetensors', '--quiet', cwd=tmp_path)
    assert r.returncode == 0 and '3 of 60 files are left out' in r.stderr and '40 training and 17 test' in r.stdout
    r = here('dd_evaluate', 's.safetensors', '--nets', 1, cwd=tmp_path)
    assert r.returncode == 0, r.stderr


def test_the_first_screen_of_help_is_short(here):
    r = here('dd_distill', '--help')
    first = r.stdout.split('advanced:')[0]
    assert r.returncode == 0 and len(re.findall('^  --', first, re.M)) <= 10 and '--minutes' in first and '--window' not in first
    assert '--window' in r.stdout and '--no-compare' in first


@pytest.mark.parametrize('args, said', [
    (('--minutes', 0), 'minutes must be a number of minutes'), (('--minutes', 'nan'), 'minutes must be'), (('--method', 'gan'), 'method must be one of auto'),
    (('--recipe', '{"colour": 1}'), 'recipe must have fields'), (('--recipe', '{}', '--ipc', 2), 'ipc must be left out with recipe'), (('--recipe', 'nowhere.json'), 'recipe must be a JSON object'),
    (('--out', 'set.npz'), 'out must end in .safetensors'), (('--labels', 'fuzzy'), 'labels must be one of hard')])
def test_what_a_run_by_the_clock_refuses(discs, tmp_path, here, args, said):
    r = here('dd_distill', discs, *args, cwd=tmp_path)
    assert r.returncode == 2 and said in r.stderr and len(r.stderr.splitlines()) == 1 and r.stdout == '' and not list(tmp_path.iterdir())


def test_a_set_starts_from_none_of_the_examples_that_choose_it(tmp_path, here):
    "Centres of k-means hold what they are means of; validation by the same images would praise them for it."
    from dd_nb.data import load_data, split_validation
    from torchvision.transforms.functional import to_pil_image
    for i in range(40):
        (tmp_path/'noise'/f'{i % 2}').mkdir(parents=True, exist_ok=True)
        to_pil_image(torch.rand(1, 12, 12, generator=torch.Generator().manual_seed(i))).save(tmp_path/'noise'/f'{i % 2}'/f'{i}.png')
    r = here('dd_distill', 'noise', '--start', 'real', '--ipc', 9, '--iters', 1, '--lr', 0, '--steplr', 0, *SMALL, '--out', 'd.safetensors', '--quiet', cwd=tmp_path)
    assert r.returncode == 0, r.stderr
    v = split_validation(load_data(tmp_path/'noise'))
    x = Synthetic.load(tmp_path/'d.safetensors').images.detach()[0].flatten(1)
    def near(others): return (x[:, None] - others.flatten(1)[None]).norm(dim=2).min(1)[0]
    assert near(v.x_train).max() < 1e-3 and near(v.x_test).min() > 1


@pytest.mark.parametrize('option, value', [('--window', 2), ('--window', 0), ('--epochs', 2), ('--inner', 'adam'), ('--labels', 'softmax'), ('--init', 'fixed'), ('--strategy', 'graph')])
def test_who_speaks_of_a_training_wants_it_unrolled(tmp_path, here, option, value):
    r = here('dd_distill', 'digits', '--size', 8, '--net', 'MLP', '--iters', 1, '--batch', 8, '--quiet', option, value, cwd=tmp_path)
    assert r.returncode == 0 and f'method Unroll: unrolling, as there is {option};' in r.stdout, r.stderr + r.stdout
    if option in ('--window', '--strategy'):
        r = here('dd_distill', 'digits', '--method', 'dm', option, value, cwd=tmp_path)
        assert r.returncode == 2 and f'{option[2:]} must be left out for DistributionMatch' in r.stderr


def test_bench_gpu_is_the_tool_of_the_repository(tmp_path, here, monkeypatch):
    from dd_nb import cli
    r = here('dd_bench', cwd=tmp_path)
    assert '\ngpu ' in r.stdout and '\ncolour ' in r.stdout and 'CIFAR-10 at the width' in r.stdout
    said = []
    monkeypatch.setattr(cli.subprocess, 'call', lambda args: said.append(list(map(str, args))) or 3)
    r = here('dd_bench', 'gpu', cwd=tmp_path)
    assert r.returncode == 3 and said[0][1].endswith('tools/gpu.py') and '--budget' in said[0]
    monkeypatch.setattr(cli, '__file__', str(tmp_path/'dd_nb'/'cli.py'))
    r = here('dd_bench', 'gpu', cwd=tmp_path)
    assert r.returncode == 2 and 'name must be run in a copy of the repository' in r.stderr
