"""All tables, one after the other: ``make bench``. Each script has options of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

for script in ("network_speed.py", "prediction.py", "seams.py", "repair.py"):
    print(f"== {script}", flush=True)
    subprocess.run([sys.executable, Path(__file__).with_name(script)], check=True)
