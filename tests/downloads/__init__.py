"""Every dataset as it lies on disk after its download, in miniature and with its traps.

A form is one layout of one dataset. `build` writes it under an empty folder and returns what a
reader has to find there, written by hand; no file here reads one.
"""

from collections.abc import Callable
from pathlib import Path

from tests.downloads import (
    chaksu,
    deepdrid,
    downstream,
    glaucoma,
    grading,
    messidor,
    mixed,
    odir,
    refuge,
    retfound,
    rfmid,
    sheets,
)
from tests.downloads.expected import Expected, Facts, WrongRoot
from tests.downloads.wrong import wrong_root

__all__ = ["FORMS", "Expected", "Facts", "WrongRoot", "build", "wrong_root"]

_WRITERS: dict[str, tuple[str, Callable[[Path], Expected]]] = {
    "eyepacs": ("eyepacs", grading.eyepacs),
    "eyepacs_renamed": ("eyepacs", grading.eyepacs_renamed),
    "eyepacs_resized": ("eyepacs", grading.eyepacs_resized),
    "odir5k_challenge": ("odir5k", odir.challenge),
    "odir5k_kaggle": ("odir5k", odir.kaggle),
    "odir5k_preprocessed": ("odir5k", odir.preprocessed),
    "odir5k_oia": ("odir5k", odir.oia),
    "odir5k_oia_renamed": ("odir5k", odir.oia_renamed),
    "airogs": ("airogs", glaucoma.airogs),
    "airogs_flat": ("airogs", glaucoma.airogs_flat),
    "stare": ("stare", mixed.stare),
    "stare_renamed": ("stare", mixed.stare_renamed),
    "paraguay": ("paraguay", grading.paraguay),
    "deepdrid": ("deepdrid", deepdrid.clone),
    "deepdrid_regular": ("deepdrid", deepdrid.regular),
    "drishti_gs": ("drishti_gs", sheets.drishti_gs),
    "drishti_gs_nested": ("drishti_gs", sheets.drishti_gs_nested),
    "drishti_gs_beside": ("drishti_gs", sheets.drishti_gs_beside),
    "acrima": ("acrima", glaucoma.acrima),
    "refuge_official": ("refuge", refuge.official),
    "refuge_flat": ("refuge", refuge.flat),
    "refuge_second_edition": ("refuge", refuge.second_edition),
    "refuge_kaggle": ("refuge", refuge.kaggle),
    "lag": ("lag", glaucoma.lag),
    "grape": ("grape", sheets.grape),
    "chaksu": ("chaksu", chaksu.chaksu),
    "hrf": ("hrf", mixed.hrf),
    "hrf_quality": ("hrf", mixed.hrf_quality),
    "sustech_sysu": ("sustech_sysu", grading.sustech_sysu),
    "sustech_sysu_flat": ("sustech_sysu", grading.sustech_sysu_flat),
    "fives": ("fives", mixed.fives),
    "aptos2019": ("aptos2019", downstream.aptos2019),
    "aptos2019_mirror": ("aptos2019", downstream.aptos2019_mirror),
    "aptos2019_retfound": ("aptos2019", retfound.aptos2019),
    "idrid": ("idrid", downstream.idrid),
    "idrid_nested": ("idrid", downstream.idrid_nested),
    "idrid_retfound": ("idrid", retfound.idrid),
    "messidor2": ("messidor2", messidor.messidor2),
    "messidor2_preprocessed": ("messidor2", messidor.messidor2_preprocessed),
    "messidor2_gradable": ("messidor2", messidor.messidor2_gradable),
    "messidor2_retfound": ("messidor2", retfound.messidor2),
    "glaucoma_fundus": ("glaucoma_fundus", glaucoma.glaucoma_fundus),
    "glaucoma_fundus_retfound": ("glaucoma_fundus", retfound.glaucoma_fundus),
    "origa": ("origa", glaucoma.origa),
    "jsiec": ("jsiec", downstream.jsiec),
    "jsiec_retfound": ("jsiec", retfound.jsiec),
    "retina": ("retina", downstream.retina),
    "retina_archive": ("retina", downstream.retina_archive),
    "retina_retfound": ("retina", retfound.retina),
    "rfmid": ("rfmid", rfmid.nested),
    "rfmid_challenge": ("rfmid", rfmid.challenge),
}
FORMS = {form: card for form, (card, _) in _WRITERS.items()}


def build(form: str, root: Path) -> Expected:
    """Write one form under `root`; return what is to be found there."""
    return _WRITERS[form][1](root)
