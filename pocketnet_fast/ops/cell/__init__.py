"""The operator that trains a cell: ``pocketnet_fast::cell``."""

from pocketnet_fast.ops.cell.structure import Kind as Kind
from pocketnet_fast.ops.cell.structure import Operation as Operation
