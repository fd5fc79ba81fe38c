"Every public name of every room: `from dd_nb.all import *`."
# %% Written by hand, in the order of the imports. This line of two percents keeps the file out of nbdev's symbol index.
from .core import *
from .data import *
from .readers import *
from .networks import *
from .synthetic import *
from .files import *
from .batchnorm import *
from .guard import *
from .unroll import *
from .train import *
from .inits import *
from .linear import *
from .adaptation import *
from .poisoning import *
from .soft_labels import *
from .text import *
from .kernel import *
from .gradient_matching import *
from .trajectory_matching import *
from .distribution_matching import *
from .families import *
from .coresets import *
from .evaluate import *
from .distill import *
from .zoo import *
from .widgets import *
