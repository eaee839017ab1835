import pytest

from maskedclip.data.expert_dictionary import EXPERT
from maskedclip.shards.downloads.cards import read_card
from maskedclip.shards.downloads.stare import findings_of

# what the diagnoses of all 397 images hold, as published, with its repeats left out
FINDINGS = """background diabetic retinopathy; choroidal neovascularization;
age related macular degeneration; normal; arteriosclerotic retinopathy; hypertensive retinopathy;
central retinal vein occlusion; proliferative diabetic retinopathy; retinitis, disease;
drusen, large; drusen; histoplasmosis; hemi-central retinal vein occlusion;
branch retinal vein occlusion; central retinal artery occlusion;
coats', not isolated telangestasia; branch retinal artery occlusion; choroidal nevus;
macroaneurism, disease; choroidal hemangioma (recommendation: don't use); asr; nevus; drusen, fine;
hypertensuve retinopathy; emboli; epiretinal membrane; myelinated nerve fibers; vasculitis;
hollenhorst plaque; htr; human immune deficiency virus; toxoplasmosis; macroaneurism;
age related macular; emboli, non-hollenhorst; geographic atrophy rpe;
cilio-retinal artery occlusion; central retinal vein occlusion, compensated; choroidal melanoma;
hypertensive retinopathy [v: how could it be]; optic nerve atrophy; normal, possibly fine drusen;
stellate maculopathy; rped; patterned ppeopathy; chorioretinal scar; frosted branch vascuopathy;
asteroid hyalosis; asteroud hyalosis; rd; central retinal vein occlusion, rxed; high myopia;
optic atrophy; retinitis pigmentosa; branch retinal vein occlusion (old);
not obvious, choroidal hemangioma (recommendation:don't use);
choroidal hemangioma, unknown type (recommendation:don't use);
tumor unknown (recommendation: don't use)"""
OWN_WORDS = {
    "arteriosclerotic retinopathy", "histoplasmosis", "hemi-central retinal vein occlusion",
    "coats' disease", "choroidal hemangioma", "emboli", "hollenhorst emboli",
    "human immune deficiency virus", "toxoplasmosis", "non-hollenhorst emboli",
    "cilio-retinal artery occlusion", "choroidal melanoma", "stellate maculopathy",
    "background diabetic retinopathy", "retinal pigment epithelium detachment",
    "patterned retinal pigment epitheliopathy", "suspected drusen",
    "suspected choroidal hemangioma",
}  # fmt: skip


def test_every_finding_of_stare_is_one_category_with_a_key_or_a_known_word() -> None:
    card = read_card("stare")
    found = {
        " ".join(f.split()): findings_of(card, " ".join(f.split())) for f in FINDINGS.split(";")
    }
    assert {finding: c for finding, c in found.items() if len(c) != 1} == {}
    categories = {category for (category,) in found.values()}
    assert categories - EXPERT.keys() == OWN_WORDS


@pytest.mark.parametrize(
    "text", ["", "Unknown Diagnosis", "unknown diagnosis, poor quality", "Unsure?", '""']
)
def test_what_says_nothing_of_the_eye_is_no_finding(text: str) -> None:
    assert findings_of(read_card("stare"), text) == ()


def test_findings_are_joined_in_four_ways() -> None:
    text = "ASR &HTR and Drusen, Large OR normal (Recommendation: don't use)"
    assert findings_of(read_card("stare"), text) == (
        "arteriosclerotic retinopathy", "hypertensive retinopathy", "drusens", "normal",
    )  # fmt: skip
