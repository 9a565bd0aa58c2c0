"""Give a linked module the final opcode of the relaxed multiply-add.

LLVM 14 and the binaryen beside it know the instruction by the opcode that the proposal had in 2021, 0xaf,
which engines refuse. Both opcodes take two bytes. The same bytes might stand in a constant: as every
instruction has them, there is no such place where they are as many as a disassembler finds instructions.
"""

import subprocess
import sys
from pathlib import Path

PROPOSED, FINAL = bytes.fromhex("fdaf01"), bytes.fromhex("fd8502")  # 0xfd, and 0xaf or 0x105 in LEB128
module, disassembler = Path(sys.argv[1]), sys.argv[2]
text = subprocess.run(
    [disassembler, "--all-features", module], stdout=subprocess.PIPE, text=True, check=True
).stdout
content = module.read_bytes()
instructions, places = text.count("f32x4.relaxed_fma"), content.count(PROPOSED)
if instructions == 0 or places != instructions:
    sys.exit(f"{module}: {instructions} multiply-adds and {places} places that look like one")
module.write_bytes(content.replace(PROPOSED, FINAL))
