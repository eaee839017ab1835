from collections import Counter

import pytest

from maskedclip.data.captions import (
    EXPERT,
    Wording,
    caption,
    captions,
    categories_of,
    keywords_of,
    prompts,
)
from maskedclip.data.expert_dictionary import CLASS_NAMES, KEYWORDS

# Every keyword of ODIR-5K, after splitting: those that get a key, a word of their own, neither.
WITH_KEY = """normal fundus; moderate non proliferative retinopathy;
mild nonproliferative retinopathy; cataract; glaucoma; pathological myopia;
dry age-related macular degeneration; drusen;
macular epiretinal membrane; hypertensive retinopathy; epiretinal membrane; laser spot;
severe nonproliferative retinopathy; myelinated nerve fibers; refractive media opacity;
diabetic retinopathy; wet age-related macular degeneration; maculopathy; tessellated fundus;
branch retinal vein occlusion; proliferative diabetic retinopathy; myopia retinopathy;
epiretinal membrane over the macula; severe proliferative diabetic retinopathy;
retinitis pigmentosa; post laser photocoagulation; old branch retinal vein occlusion;
central retinal vein occlusion; pigment epithelium proliferation; central retinal artery occlusion;
optic disc edema; post retinal laser surgery; depigmentation of the retinal pigment epithelium;
optic nerve atrophy; myopic maculopathy; idiopathic choroidal neovascularization;
old central retinal vein occlusion; age-related macular degeneration; retinochoroidal coloboma;
macular hole; vessel tortuosity; retinal pigment epithelial hypertrophy;
fundus laser photocoagulation spots; intraretinal hemorrhage; branch retinal artery occlusion;
morning glory syndrome; intraretinal microvascular abnormality; macular coloboma;
retinal pigment epithelium atrophy; optic disk epiretinal membrane; silicone oil eye;
choroidal nevus; vitreous opacity; congenital choroidal coloboma;
glial remnants anterior to the optic disc; macular pigmentation disorder; retinal detachment;
central serous chorioretinopathy"""
OWN_WORD = """vitreous degeneration; suspected glaucoma; spotted membranous change;
chorioretinal atrophy; white vessel; peripapillary atrophy; retinal pigmentation; atrophic change;
abnormal pigment; chorioretinal atrophy with pigmentation proliferation; old chorioretinopathy;
atrophy; retina fold; suspicious diabetic retinopathy; suspected diabetic retinopathy;
suspected retinal vascular sheathing; wedge white line change; old choroiditis;
diffuse chorioretinal atrophy; arteriosclerosis; diffuse retinal atrophy;
suspected moderate non proliferative retinopathy; suspected macular epimacular membrane;
suspected cataract; suspected microvascular anomalies; oval yellow-white atrophy;
optic discitis; retinal vascular sheathing; suspected abnormal color of optic disc;
pigmentation disorder"""
NOT_OF_THE_EYE = """lens dust; low image quality; optic disk photographically invisible;
anterior segment image; image offset; no fundus image"""


def listed(words: str) -> list[str]:
    return [" ".join(word.split()) for word in words.split(";")]


def test_the_dictionary_has_the_109_keys_and_53_are_described() -> None:
    assert len(EXPERT) == 109
    assert sum(bool(descriptions) for descriptions in EXPERT.values()) == 53


def test_no_description_repeats_its_key_or_another_of_the_same_key() -> None:
    for key, descriptions in EXPERT.items():
        assert len({key, *descriptions}) == 1 + len(descriptions)
        assert all(text == text.strip(" .") and text.isascii() for text in descriptions)


def test_every_odir_keyword_is_mapped_kept_or_left_out() -> None:
    assert len(listed(WITH_KEY) + listed(OWN_WORD) + listed(NOT_OF_THE_EYE)) == 94
    for word in listed(WITH_KEY):
        (category,) = categories_of(word)
        assert category in EXPERT, word
    for word in listed(OWN_WORD):
        (category,) = categories_of(word)
        assert category not in EXPERT, word
    assert all(categories_of(word) == [] for word in listed(NOT_OF_THE_EYE))


@pytest.mark.parametrize(
    ("text", "categories"),
    [
        ("normal fundus", ["normal"]),
        ("laser spot\uff0cmoderate non proliferative retinopathy",
         ["laser scar", "moderate diabetic retinopathy"]),
        ("hypertensive retinopathy,diabetic retinopathy",
         ["hypertensive retinopathy", "diabetic retinopathy"]),
        ("abnormal pigment ", ["abnormal pigment"]),
        ("suspected abnormal color of  optic disc", ["suspected abnormal color of optic disc"]),
        ("lens dust\uff0cNormal Fundus", ["normal"]),
        ("epiretinal membrane, macular epiretinal membrane", ["epiretinal membrane"]),
        ("bietti crystalline dystrophy", ["Bietti crystalline dystrophy"]),
        ("Age-related macular degeneration", ["age related macular degeneration"]),
        ("", []),
    ],
)  # fmt: skip
def test_keywords_become_categories(text: str, categories: list[str]) -> None:
    assert categories_of(text) == categories


def test_a_keyword_leads_to_a_key_or_to_a_word_that_stays_as_it_is() -> None:
    for word in (*KEYWORDS.values(), *CLASS_NAMES.values()):
        assert categories_of(word) == [word]


def test_the_own_words_of_a_dataset_are_kept_for_the_report() -> None:
    text = "lens dust\uff0cdrusen\uff0c Laser  spot"
    assert keywords_of(text) == ["drusen", "laser spot"]


def test_prompts_are_the_name_and_each_description() -> None:
    assert prompts("cataract", Wording("Photo of [CLS].")) == [
        "Photo of cataract.",
        f"Photo of {EXPERT['cataract'][0]}.",
    ]
    assert prompts("a word of no dictionary") == ["A fundus photograph of a word of no dictionary"]


def test_a_report_is_used_alone_unless_asked_otherwise() -> None:
    told = "A fundus photograph of lens is cloudy"
    named = prompts("cataract")
    assert captions(["cataract"], "lens is cloudy") == [told]
    assert captions(["cataract"], "lens is cloudy", prefer="categories") == named
    assert captions(["cataract"], "lens is cloudy", prefer="both") == [told, *named]
    assert captions(["cataract"], None) == named
    assert captions([], "lens is cloudy", prefer="categories") == [told]
    assert captions([], None) == []


def test_a_report_that_reads_like_a_category_is_quoted_as_it_is() -> None:
    assert captions(["cataract"], "cataract") == ["A fundus photograph of cataract"]


def test_the_draw_is_uniform_over_categories_and_then_over_their_wordings() -> None:
    categories = ["cataract", "moderate diabetic retinopathy", "optic atrophy"]
    counts = Counter(caption(categories, None, draw=i / 42_000) for i in range(42_000))
    for category in categories:
        wordings = prompts(category)
        assert sum(counts[text] for text in wordings) == 14_000
        for text in wordings:
            assert abs(counts[text] - 14_000 / len(wordings)) <= 1
    assert set(counts) == set(captions(categories, None))


@pytest.mark.parametrize("draw", [0.0, 1 - 2**-53])
def test_both_ends_of_the_draw_give_a_caption(draw: float) -> None:
    categories = ["normal", "glaucoma", "drusens"]
    assert caption(categories, None, draw=draw) in captions(categories, None)


def test_a_sample_without_words_has_no_caption() -> None:
    with pytest.raises(ValueError, match="use the sample unpaired"):
        caption([], None, draw=0.5)


def test_mistakes_in_the_settings_are_told() -> None:
    with pytest.raises(ValueError, match="prefer is 'reports'; use"):
        captions(["normal"], None, prefer="reports")
    with pytest.raises(ValueError, match=r"has no \[CLS\]"):
        captions(["normal"], None, wording=Wording("A fundus photograph"))
