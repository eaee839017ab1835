"""What a run reads beside its sources: a probe may be a folder of images."""

from pathlib import Path

import simplejpeg

from maskedclip.config import override
from maskedclip.doctor import run_inputs
from maskedclip.recipes import demo
from maskedclip.shards.phantoms.phantom import draw


def test_a_probe_on_a_folder_of_images_is_no_fault_and_one_on_nothing_is(
    phantoms: dict[str, Path], tmp_path: Path
):
    for number in range(8):
        path = tmp_path / "eyes" / ("red", "green")[number % 2] / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(simplejpeg.encode_jpeg(draw(number, 48).image_HWC))
    before = sorted(tmp_path.rglob("*"))
    sources = {
        "data.paired": (str(phantoms["paired"]),),
        "data.unpaired": (str(phantoms["unpaired"]),),
        "after.datasets": (),
    }
    config = override(demo(), sources | {"log.probe": str(tmp_path / "eyes")})
    found = run_inputs.shards(config)
    assert found.state == "ok", found
    assert "of 2 directories" in found.message
    assert "log.probe: folders of images, of which the run makes shards" in found.message
    assert sorted(tmp_path.rglob("*")) == before  # and makes none itself
    gone = run_inputs.shards(override(config, {"log.probe": str(tmp_path / "gone")}))
    assert gone.state == "failed"
    assert gone.message.startswith("log.probe: ")
    assert "another as --log.probe (none: --log.probe=)" in gone.fix
