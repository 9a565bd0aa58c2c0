"""From a trained module to a simplified plan of fused steps."""

from pocketnet_fast.lowering.plan import Plan as Plan
from pocketnet_fast.lowering.pocketnet import lower as lower
