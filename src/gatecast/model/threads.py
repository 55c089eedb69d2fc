"""How many threads PyTorch uses here: one.

The work of a step is too small to share: two threads gain a quarter on an idle machine, and lose a factor of ten on a
busy one, where they wait for each other by spinning. What is computed must not depend on how many there are, either.
Whoever has more cores trains more networks at once.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def one_thread() -> Iterator[None]:
    """Bind PyTorch to one thread, in the calling thread alone."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
