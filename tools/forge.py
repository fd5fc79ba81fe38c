"Files that lie, for the tests and for `make soak`: ours with a checksum made to fit, and those of others that claim much or would run code."
import io
import json
import os
import struct
import zipfile
import zlib

import numpy as np
import torch
from safetensors.torch import load as st_load
from safetensors.torch import save as st_save

from dd_nb.format import digest


class Bomb:
    "What a pickle must not be allowed to do: run a command that leaves a mark."
    def __init__(self, mark): self.mark = mark
    def __reduce__(self): return os.system, (f'touch {self.mark}',)


def head_of(blob):
    "What one of our files says of itself."
    n = struct.unpack('<Q', blob[:8])[0]
    return json.loads(json.loads(blob[8:8 + n])['__metadata__']['dd_nb'])


def ours_again(blob, change):
    """One of our files with other tensors or another header, and a checksum that fits: the work of somebody who means it.
    `change` gets tensors and header and returns the tensors; the header it may change in place."""
    head, tensors = head_of(blob), st_load(blob)
    tensors = change(tensors, head)
    text = json.dumps(head)
    return st_save({k: v.contiguous() for k, v in tensors.items()}, dict(dd_nb=text, sha256=digest(tensors, text)))


def header_of(n):
    "A safetensors header of `n` bytes that claims a tensor of a terabyte."
    h = json.dumps({'images': dict(dtype='F32', shape=[2**19, 2**19], data_offsets=[0, 2**40]), '__metadata__': {'dd_nb': 'x'*n}}).encode()
    return struct.pack('<Q', len(h)) + h


def torch_file(obj, old=False):
    out = io.BytesIO()
    torch.save(obj, out, _use_new_zipfile_serialization=not old)
    return out.getvalue()


def npz_file(arrays, packed=False):
    out = io.BytesIO()
    (np.savez_compressed if packed else np.savez)(out, **arrays)
    return out.getvalue()


def zip_file(name, blob):
    out = io.BytesIO()
    with zipfile.ZipFile(out, 'w', zipfile.ZIP_DEFLATED) as z: z.writestr(name, blob)
    return out.getvalue()


def npy_claim(shape, data=b'', dtype='<f4'):
    "An .npz whose array says that it has `shape`."
    head = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    head += b' '*(63 - (10 + len(head)) % 64) + b'\n'
    return zip_file('images.npy', b'\x93NUMPY\x01\x00' + struct.pack('<H', len(head)) + head + data)


def png(w, h, data=None):
    "A PNG that says it is so large; without data its picture is missing."
    def part(k, d): return struct.pack('>I', len(d)) + k + d + struct.pack('>I', zlib.crc32(k + d))
    return b'\x89PNG\r\n\x1a\n' + part(b'IHDR', struct.pack('>IIBBBBB', w, h, 8, 0, 0, 0, 0)) + part(b'IDAT', zlib.compress(data or b'\0'*1000)) + part(b'IEND', b'')
