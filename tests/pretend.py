"""A GPU that is not there: tensors that say `cuda:0`, hold a CPU's numbers, and refuse what a GPU's tensors refuse.

Refused are: computing with tensors of both devices (numbers, that is tensors without dimensions, excepted), a generator of the other
device, and `.numpy()`. The GPU's random state is its own. What it cannot see: kernels that a GPU lacks or that round otherwise, memory,
streams, several GPUs, recurrent layers (a GPU's take another path), float16, and whatever asks C++ for the device of a tensor: there it is 'meta'.

It has two parts: a mode that sees every operation (`_run`), and one that sees what Python calls before torch looks for a driver (`_AsMeta`)."""
import copy
import traceback
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._device import _device_constructors
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

GPU, CPU, META = torch.device('cuda:0'), torch.device('cpu'), torch.device('meta')
NOT_CPU = 'cuda', 'meta', 'mps'
ANY_DEVICE = 'aten::_to_copy', 'aten::to', 'aten::_copy_from', 'aten::set_', 'aten::copy_'   # these may go from one to the other
CPU_INDEX = 'aten::index.Tensor', 'aten::index', 'aten::index_put', 'aten::index_put_', 'aten::_unsafe_index'   # a GPU takes CPU indices
Generator = torch.Generator
noise = Generator().manual_seed(987)   # the GPU's
_default = [CPU]   # device of tensors that name none
refused = []   # (operation, what, place): also of what some `except` has caught


class Refused(RuntimeError): "What a GPU would not do."

def refuse(func, what):
    frames = [f'{f.filename.rsplit("/", 1)[-1]}:{f.lineno}' for f in reversed(traceback.extract_stack()) if '/dd_nb/' in f.filename]
    place = ' <- '.join(frames[:5]) or '?'
    refused.append((str(func), what, place))
    raise Refused(f'{func} at {place}: {what}')


class OnGPU(torch.Tensor):
    "A tensor that says it lives on a GPU. To C++ it is on 'meta', so that autograd asks for no stream."
    @staticmethod
    def __new__(cls, inner):
        how = dict(strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype, layout=inner.layout)
        new = torch.Tensor._make_wrapper_subclass(cls, inner.size(), device='meta', requires_grad=False, **how)
        new.inner = inner
        return new
    device = property(lambda self: GPU)
    is_cuda, is_cpu, is_meta = (property(lambda self, v=v: v) for v in (True, False, False))
    def __repr__(self): return f'OnGPU({self.inner})'
    def tolist(self): return self.inner.tolist()
    def __format__(self, spec): return format(self.inner, spec)
    def data_ptr(self): return self.inner.data_ptr()
    def untyped_storage(self): return self.inner.untyped_storage()
    def numpy(self, *args, **kw): refuse('numpy', 'a tensor on cuda:0')
    def __array__(self, *args, **kw): refuse('__array__', 'a tensor on cuda:0')
    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None): return _run(func, args, kwargs or {})

class PretendGenerator(Generator):
    "A generator of either device."
    def __new__(cls, device='cpu'): return Generator.__new__(cls, 'cpu')
    def __init__(self, device='cpu'):
        self.of_gpu = torch.device(device).type == 'cuda'
        (_GPU_GENERATORS.add if self.of_gpu else _GPU_GENERATORS.discard)(self._cdata)
    def __del__(self): _GPU_GENERATORS.discard(self._cdata)
    @property
    def device(self): return GPU if self.of_gpu else CPU
    def manual_seed(self, seed):
        super().manual_seed(seed)
        return self

_GPU_GENERATORS = set()   # operations see a generator as C++ has it, by its address


def _elsewhere(device): return device is not None and torch.device(device).type in NOT_CPU

def _inner(v):
    if isinstance(v, OnGPU): return v.inner
    return CPU if isinstance(v, torch.device) and v.type in NOT_CPU else v

def _where(func, args, kwargs):
    "Whether an operation's result is on the GPU; refuses what cannot be computed on either."
    tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
    there, here = [t for t in tensors if isinstance(t, OnGPU)], [t for t in tensors if not isinstance(t, OnGPU)]
    name = func._schema.name
    if kwargs.get('device') is not None: return _elsewhere(kwargs['device'])
    if name in ANY_DEVICE or not there: return bool(there)
    if any(t.dim() for t in here) and not (name in CPU_INDEX and isinstance(args[0], OnGPU)):
        refuse(func, f'{[tuple(t.shape) for t in there][:3]} on cuda:0 and {[tuple(t.shape) for t in here if t.dim()][:3]} on cpu')
    return True

def _run(func, args, kwargs):
    "One operation, on the CPU whatever it says."
    name, kw = func._schema.name, dict(kwargs)
    if func is torch.ops.prim.device.default: return GPU
    if name == 'aten::copy_':
        _inner(args[0]).copy_(_inner(args[1]))
        return args[0]
    on_gpu = _where(func, args, kwargs)
    generators = [g for g in tree_leaves((args, kwargs)) if isinstance(g, Generator)]
    for g in generators:
        if (g._cdata in _GPU_GENERATORS) != on_gpu: refuse(func, f"a generator of the {'CPU' if on_gpu else 'GPU'}")
    if _elsewhere(kw.get('device')): kw['device'] = CPU
    if 'pin_memory' in kw: kw['pin_memory'] = False
    args, kw, outer = *tree_map(_inner, (args, kw)), (args, kwargs)
    draws = on_gpu and not generators and torch.Tag.nondeterministic_seeded in func.tags
    out = _with_gpu_noise(lambda: func(*args, **kw)) if draws else func(*args, **kw)
    if not on_gpu or name == 'aten::_local_scalar_dense': return out
    known = {id(t.inner): t for t in tree_leaves(outer) if isinstance(t, OnGPU)}   # what was changed in place stays itself
    def out_of(t):
        if not isinstance(t, torch.Tensor) or isinstance(t, OnGPU): return t
        same = known.get(id(t))
        return OnGPU(t) if same is None else same
    return tree_map(out_of, out)

def _with_gpu_noise(f):
    before = torch.default_generator.get_state()
    torch.default_generator.set_state(noise.get_state())
    try: return f()
    finally:
        noise.set_state(torch.default_generator.get_state())
        torch.default_generator.set_state(before)


class _Operations(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None): return _run(func, args, kwargs or {})

def _as_meta(v):
    if isinstance(v, str) and v.split(':')[0] in ('cuda', 'mps'): return META
    return META if isinstance(v, torch.device) and v.type in ('cuda', 'mps') else v

class _AsMeta(TorchFunctionMode):
    "What Python says of 'cuda' becomes 'meta', for which torch looks for no driver."
    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in (torch.tensor, torch.as_tensor, torch.asarray):
            data, device = args[0] if args else kwargs.get('data'), kwargs.get('device')
            if isinstance(data, OnGPU): return func(*args, **kwargs) if device is None else data.to(device)
            if _elsewhere(_default[0] if device is None else device): return OnGPU(func(*args, **dict(kwargs, device='cpu')))
        if func in _device_constructors() and kwargs.get('device') is None and _elsewhere(_default[0]): kwargs = dict(kwargs, device=META)
        if func is torch.device or getattr(func, '__name__', '') in ('__get__', 'device'): return func(*args, **kwargs)
        return func(*[_as_meta(a) for a in args], **{k: _as_meta(v) for k, v in kwargs.items()})


def _module(self):
    "`State.module`, which sets `.data` where the wrapper takes new parameters only."
    from dd_nb.layers import plain
    net = plain(copy.deepcopy(self.net.module))
    for prefix, m in net.named_modules():
        def new(k, of): return of[f'{prefix}.{k}'.lstrip('.')].detach().clone()
        for k in [k for k, v in m._parameters.items() if v is not None]: m._parameters[k] = torch.nn.Parameter(new(k, self.params))
        for k in [k for k, v in m._buffers.items() if v is not None]: m._buffers[k] = new(k, self.buffers)
    return net.eval()

def _manual_seed(seed):
    noise.manual_seed(int(seed) % 2**63)
    return torch.default_generator.manual_seed(int(seed))

@contextmanager
def pretend():
    "Inside there is one GPU. Afterwards `refused` tells what it would not do, even where somebody has caught that."
    from dd_nb.structure import State
    cuda = dict(is_available=lambda: True, is_bf16_supported=lambda *a, **kw: True, device_count=lambda: 1, is_initialized=lambda: True, current_device=lambda: 0, _is_in_bad_fork=lambda: False,
                is_current_stream_capturing=lambda: False, mem_get_info=lambda *a: (8*2**30, 80*2**30), synchronize=lambda *a: None,
                memory_reserved=lambda *a: 0, memory_allocated=lambda *a: 0, get_rng_state=lambda *a, **kw: noise.get_state(),
                get_rng_state_all=lambda: [noise.get_state()], set_rng_state=lambda s, *a, **kw: noise.set_state(s),
                manual_seed_all=noise.manual_seed, manual_seed=noise.manual_seed)
    changes = [(torch.cuda, k, v) for k, v in cuda.items()]
    changes += [(torch, 'Generator', PretendGenerator), (torch, 'manual_seed', _manual_seed), (torch.random, 'manual_seed', _manual_seed),
                (torch, 'set_default_device', lambda d: _default.__setitem__(0, GPU if _elsewhere(d) else CPU)), (torch, 'get_default_device', lambda: _default[0]),
                (torch.optim.Optimizer, '_accelerator_graph_capture_health_check', lambda self: None), (State, 'module', _module),
                (torch.__future__, 'get_overwrite_module_params_on_conversion', lambda: True)]
    refused.clear()
    with ExitStack() as stack:
        for owner, name, new in changes: stack.enter_context(patch.object(owner, name, new, create=True))
        try:
            with _Operations(), _AsMeta(): yield
        finally: _default[0] = CPU
