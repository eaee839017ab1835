"""Look this machine over before a run; `python tools/doctor.py --help` says more."""

import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from maskedclip.command import one_line_errors, read_config, read_flags
from maskedclip.doctor.examine import USAGE, DoctorConfig, examine, report

if __name__ == "__main__":
    start = time.perf_counter()
    config, options = read_config(USAGE, DoctorConfig(), default="maskedclip_vitl")
    words, flags = read_flags()
    own = ("json", "card", "nodes", "gpus")
    changes = [f"--{name}={value}" for name, value in flags.items() if name not in own]
    placed = [f"--{name}={flags[name]}" for name in ("nodes", "gpus") if name in flags]
    named = " ".join([*words, *changes]) if words else ""
    with one_line_errors():
        checks = examine(config, named, options)
        took_s = time.perf_counter() - start
        if options.json:
            rows = [check._asdict() for check in checks]
            sys.stdout.write(json.dumps({"checks": rows, "seconds": took_s}) + "\n")
        else:
            launch = " ".join([named or "demo", *placed])
            sys.stdout.write(report(checks, took_s, launch, sys.stdout.isatty()))
    raise SystemExit(any(check.state == "failed" for check in checks))
