from pocketnet_fast.evaluation.paper_figures import paper_accuracy
from pocketnet_fast.models.architectures import list_models


def test_names_of_data_sets() -> None:
    for name in ("cfp_fp", "CFP-FP", "cfpfp"):
        assert paper_accuracy("pocketnet_s128", name) == 94.21
    for name in ("agedb_30", "AgeDB-30", "agedb30", "agedb"):
        assert paper_accuracy("pocketnet_s256", name) == 96.35
    assert paper_accuracy("pocketnet_s256", "LFW") == 99.66


def test_what_is_unknown() -> None:
    assert paper_accuracy("mobilefacenet", "lfw") is None
    # A part of a data set is another one.
    assert paper_accuracy("pocketnet_s128", "lfw_dev") is None
    assert paper_accuracy("no model", "lfw") is None


def test_figures_are_of_models_that_exist() -> None:
    assert {name for name in list_models() if paper_accuracy(name, "lfw")} == {
        "pocketnet_s128",
        "pocketnet_s256",
    }
