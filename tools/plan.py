"""Count what a run will cost before it runs; `python tools/plan.py --help`."""

import json
import sys
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from maskedclip.command import one_line_errors, read_config
from maskedclip.plan.cost import USAGE, PlanConfig, plan
from maskedclip.plan.table import report

if __name__ == "__main__":
    config, options = read_config(USAGE, PlanConfig(), default="maskedclip_vitl")
    with one_line_errors():
        as_json = options.json
        values = asdict(options)
        del values["json"]
        planned = plan(config, **values)
        sys.stdout.write(json.dumps(asdict(planned)) + "\n" if as_json else report(planned))
