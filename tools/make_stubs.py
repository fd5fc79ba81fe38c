"""Write type stubs, dd_nb/*.pyi, for the rooms whose classes get methods by `@patch`: `python tools/make_stubs.py`.

A type checker reads a class and does not see what is patched into it later, often in another notebook. In a stub it all stands together.
"""
import ast
import builtins
import re
from pathlib import Path

root = Path(__file__).resolve().parent.parent
note = '# Made by `make prepare` from the notebooks, for type checkers: methods that are patched into a class stand in it here.\n'


def text(node): return ast.unparse(node)


def patched(fn):
    "(class names, 'property', 'classmethod' or None) of a function with `@patch`, or None of another."
    for d in fn.decorator_list:
        name, kw = (d.func, d.keywords) if isinstance(d, ast.Call) else (d, [])
        if not isinstance(name, ast.Name) or name.id != 'patch': continue
        to = fn.args.args[0].annotation
        on = {k.arg for k in kw if getattr(k.value, 'value', False) is True}
        return [e.id for e in (to.elts if isinstance(to, ast.Tuple) else [to])], 'property' if 'as_prop' in on else 'classmethod' if 'cls_method' in on else None


def targets(n):
    "What an assignment assigns to, tuples taken apart; nothing of another statement."
    for t in n.targets if isinstance(n, ast.Assign) else [n.target] if isinstance(n, ast.AnnAssign) else []: yield from t.elts if isinstance(t, ast.Tuple) else [t]


def signature(fn, known=None, method=False):
    "`def name(...) -> ...: ...`, without defaults' values; annotations with names that are not `known` are left out."
    def fits(a): return known is None or {n.id for n in ast.walk(ast.parse(a.value, mode='eval') if isinstance(a, ast.Constant) and isinstance(a.value, str) else a) if isinstance(n, ast.Name)} <= known
    a = ast.parse(f'def f({text(fn.args)}): ...').body[0].args   # a copy
    for arg in (*a.posonlyargs, *a.args, *a.kwonlyargs, *(x for x in (a.vararg, a.kwarg) if x)):
        if arg.annotation is not None and not fits(arg.annotation): arg.annotation = None
    if method and a.args: a.args[0].annotation = None
    a.defaults, a.kw_defaults = [ast.Constant(...) for _ in a.defaults], [d and ast.Constant(...) for d in a.kw_defaults]
    returns = f' -> {text(fn.returns)}' if fn.returns is not None and fits(fn.returns) else ''
    return f'def {fn.name}({text(a)}){returns}: ...'


def members(cls, later=()):
    "Lines of a class: its fields, the attributes that its methods set, and its methods, but those that are patched in `later`."
    out, names = [], set()
    for n in cls.body:
        if isinstance(n, ast.AnnAssign): out.append(text(n.target) + ': ' + text(n.annotation) + (' = ...' if n.value else '')); names.add(text(n.target))
        elif isinstance(n, ast.Assign):
            for e in targets(n): out.append(f'{text(e)}: Any'); names.add(text(e))
        elif isinstance(n, ast.FunctionDef) and n.name not in later:
            out += [f'@{text(d)}' for d in n.decorator_list if text(d) in ('property', 'classmethod', 'staticmethod') or text(d).endswith('.setter')] + [signature(n, method=not any(text(d) == 'staticmethod' for d in n.decorator_list))]
            names.add(n.name)
    own = {t.attr for n in ast.walk(cls) for t in targets(n) if isinstance(t, ast.Attribute) and text(t.value) == 'self'}
    return out + [f'{a}: Any' for a in sorted(own - names)]


def stub(room, trees):
    "The stub of a room, as text."
    body = []
    imports = [n for n in trees[room].body if isinstance(n, (ast.Import, ast.ImportFrom))]
    own = {a.asname or a.name.split('.')[0] for n in imports for a in n.names} | {n.name for n in trees[room].body if isinstance(n, (ast.ClassDef, ast.FunctionDef))}
    known = own | set(dir(builtins)) | {'Any'}
    for n in trees[room].body:
        if isinstance(n, ast.Assign):
            if text(n.targets[0]) == '__all__': body.append(text(n)); continue
            body += [f'{text(e)}: Any' for e in targets(n) if isinstance(e, ast.Name)]
        elif isinstance(n, ast.FunctionDef) and not patched(n): body.append(signature(n, known))
        elif isinstance(n, ast.ClassDef):
            more, later = [], set()
            for m, tree in trees.items():
                for f in tree.body:
                    if isinstance(f, ast.FunctionDef) and (p := patched(f)) and n.name in p[0]:
                        more += ([f'@{p[1]}'] if p[1] else []) + [signature(f, known, method=True)]
                        later.add(f.name)
            body += [*(f'@{text(d)}' for d in n.decorator_list), f'class {n.name}({", ".join(map(text, (*n.bases, *n.keywords)))}):'.replace('():', ':'), *(f'    {line}' for line in (*members(n, later), *more) or ['...'])]
    said = set(re.findall(r'\w+', '\n'.join(body)))
    for n in imports:
        n.names = [a for a in n.names if (a.asname or a.name.split('.')[0]) in said]
    return '\n'.join([note.rstrip(), 'from typing import Any', *(text(n) for n in imports if n.names), *body]) + '\n'


def build(folder=root/'dd_nb'):
    "Write the stubs of a package's folder; returns their paths."
    trees = {p.stem: ast.parse(p.read_text(encoding='utf-8')) for p in sorted(Path(folder).glob('*.py')) if not p.name.startswith('_')}
    classes = {c for t in trees.values() for f in t.body if isinstance(f, ast.FunctionDef) and (p := patched(f)) for c in p[0]}
    rooms = [m for m, t in trees.items() if any(isinstance(n, ast.ClassDef) and n.name in classes for n in t.body)]
    for m in rooms: (Path(folder)/f'{m}.pyi').write_text(stub(m, trees), encoding='utf-8')
    return [Path(folder)/f'{m}.pyi' for m in rooms]


if __name__ == '__main__': print(*(p.relative_to(root) for p in build()))
