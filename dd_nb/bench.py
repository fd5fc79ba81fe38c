"Every public name of the benchmarks: `from dd_nb import bench`, then `bench.hypergrad(...)`."
# %% Written by hand, in the order of the imports. This line of two percents keeps the file out of nbdev's symbol index.
from .harness import *
from .speed_bench import *
from .contenders import *
from .tables import *
from .budgets import *
from .probes import *
from .review import *
