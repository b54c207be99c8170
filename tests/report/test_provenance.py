import pytest

from debride.report.provenance import hidden, provenance


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/home/Dr Eve/my scans", "…/my scans"),
        ("--data=/srv/ward 7/patients", "--data=…/patients"),
        (r"C:\Users\eve\x.csv", "…/x.csv"),
        ("~/a/b.npz", "…/b.npz"),
        ("runs/smith/half/", "…/half"),
        ("taken from /srv/eve/train, by patient", "taken from …/train, by patient"),
        ("torchvision:resnet18", "torchvision:resnet18"),
        ("medmnist:bloodmnist@64", "medmnist:bloodmnist@64"),
        ("2025-05-04T10:11:12+00:00", "2025-05-04T10:11:12+00:00"),
        ("0.5", "0.5"),
    ],
)
def test_directories_are_cut_off(text, expected):
    assert hidden(text) == expected


def test_names_of_files_and_machines_stay_out_unless_asked_for(run):
    run["machine"]["hostname"] = "ward7-pc"
    quiet = dict(provenance(run))
    assert "smith" not in str(quiet)
    assert "eve" not in str(quiet)
    assert "ward" not in str(quiet)
    assert "skipped 1 (names hidden)" in quiet["data"]
    assert quiet["command line"] == (
        "debride prune --model …/base --data …/patients --macs 0.5 --out …/half"
    )
    loud = dict(provenance(run, show_names=True))
    assert "smith_john_1950.png" in loud["data"]
    assert loud["command line"] == run["command_line"]
