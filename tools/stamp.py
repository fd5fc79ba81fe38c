"""stamp.py FILE: touch FILE if code has changed since it was last written, and leave it alone if only prose has.

What counts: Python files, the code cells of notebooks (without outputs), code blocks of Markdown files, settings, data that ships.
The slow tests start anew when this file is newer than their own stamps, so a corrected sentence does not cost an hour."""
import hashlib
import json
import re
import sys
from pathlib import Path

root = Path(__file__).resolve().parent.parent
PATTERNS = '*.ini *.py *.toml *.in *.md nbs/*.ipynb nbs/*.yml dd_nb/*.py dd_nb/*.pyi dd_nb/zoo_data/* tests/*.py tests/slow/*.py tools/*.py Makefile .ci/run'


def code_of(path):
    "The part of a file that a test's outcome can depend on, as bytes."
    if path.suffix == '.ipynb':
        cells = json.loads(path.read_text(encoding='utf-8'))['cells']
        return '\0'.join(''.join(c['source']) for c in cells if c['cell_type'] == 'code').encode()
    if path.suffix == '.md': return '\0'.join(re.findall(r'```.*?```', path.read_text(encoding='utf-8'), re.S)).encode()
    return path.read_bytes()


def digest():
    "One digest over all of it."
    h = hashlib.sha256()
    for path in sorted({p for pattern in PATTERNS.split() for p in root.glob(pattern) if p.is_file()}):
        h.update(str(path.relative_to(root)).encode() + b'\0' + hashlib.sha256(code_of(path)).digest())
    return h.hexdigest()


if __name__ == '__main__':
    stamp = Path(sys.argv[1])
    now = digest()
    if not stamp.exists() or stamp.read_text() != now:
        stamp.parent.mkdir(parents=True, exist_ok=True)
        stamp.write_text(now)
