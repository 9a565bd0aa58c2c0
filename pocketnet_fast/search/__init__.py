"""Architecture search: DARTS (arXiv 1806.09055) over PocketNet's operations, from alphas to a genotype."""

from pocketnet_fast.search.architecture import architecture_gradient as architecture_gradient
from pocketnet_fast.search.derivation import derive_genotype as derive_genotype
from pocketnet_fast.search.network import SearchNetwork as SearchNetwork
