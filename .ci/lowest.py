"""Print the oldest release that pyproject.toml names of each dependency, for `pip install -c`."""

import re
import tomllib
from pathlib import Path

project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
extras = project["optional-dependencies"]
for requirement in [
    *project["dependencies"],
    *extras["onnx"],
    *extras["offline"],
    *extras["hybrid"],
]:
    match = re.match(r"([\w-]+)>=([\w.]+)", requirement)
    # Of PyTorch only one release comes as a CPU build without gigabytes of CUDA.
    if match and match[1] != "torch":
        print(f"{match[1]}=={match[2]}")
