"""Store the zoo's sets in fewer bytes: images at eight bits, initial weights and word vectors at sixteen.

A set is replaced only where the score of the same networks, trained from the set as it is and as it would be, changes
by less than a tenth of a point. What was measured goes into a JSON file, which 19_zoo prints.

    python tools/pack_zoo.py nbs/images/zoo_bytes.json [NAME ...]     # needs $DD_NB_DATA

Cut off, it goes on: what stands in the JSON file is not measured again.
"""
import json
import sys
import tempfile
from pathlib import Path

from dd_nb.all import Quantised, Synthetic, evaluate, get_recipe, list_zoo, stored_source
from dd_nb.harness import machine
from dd_nb.recipes import recipe_data, recipe_objective, recipe_source, with_pool

FOLDER = Path(__file__).parent.parent/'dd_nb'/'zoo_data'
MOST = .001       # change of the score that is taken for none
WITHIN = 20       # networks, where the initialisation is not fixed


def scored(name, syn, data, recipe):
    "What the networks that a set is for score after training on it."
    source = stored_source(syn) if syn.init or not recipe.pool else recipe_source(with_pool(recipe, 16), data, 0)
    found = recipe_objective(recipe, data).results(syn, source, data, WITHIN) if recipe.objective == 'KernelRidge' else None
    return list(found[0]) if found else list(evaluate(syn, source, data, WITHIN, progress=False).all)


def packed(path, bits):
    "The set of a file in fewer bytes, in a file beside it; for no bits its images stay as they are."
    syn = Synthetic.load(path)
    if bits: syn = syn.parametrised(Quantised(bits, of=syn.param))
    with tempfile.NamedTemporaryFile(suffix='.safetensors', delete=False) as f: new = Path(f.name)
    return syn.save(new, small=True)


def pack(name, seed):
    "Try what is smallest first; the first way that changes nothing replaces the file."
    path, recipe = FOLDER/f'{name}-s{seed}.safetensors', get_recipe(name)
    data = recipe_data(recipe)
    before = scored(name, Synthetic.load(path), data, recipe)
    out = dict(name=name, seed=seed, before=before, bytes=path.stat().st_size, tried=[])
    for bits in (8, None):
        new = packed(path, bits)
        after = scored(name, Synthetic.load(new), data, recipe)
        off = sum(after)/len(after) - sum(before)/len(before)
        out['tried'].append(dict(bits=bits, after=after, change=off, bytes=new.stat().st_size))
        if abs(off) < MOST:
            path.write_bytes(new.read_bytes())
            new.unlink()
            return dict(out, kept=bits or 32, packed=path.stat().st_size)
        new.unlink()
    return dict(out, kept=None, packed=out['bytes'])


def main(json_file, *names):
    path = Path(json_file)
    found = json.loads(path.read_text()) if path.exists() else dict(machine=machine(), sets=[])
    done = {(s['name'], s['seed']) for s in found['sets']}
    for name, seeds in list_zoo().items():
        for seed in seeds:
            if (name, seed) in done or names and name not in names: continue
            try: found['sets'].append(pack(name, seed))
            except (ValueError, FileNotFoundError) as e: print(f'{name}-s{seed}: {e}', file=sys.stderr); continue
            path.write_text(json.dumps(found, indent=1))
            s = found['sets'][-1]
            print(f"{name}-s{seed}: {s['bytes']:,} -> {s['packed']:,} bytes, change {s['tried'][-1]['change']:+.4%}", flush=True)


if __name__ == '__main__': main(*sys.argv[1:])
