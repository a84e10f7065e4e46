"""Files of proved distances: which rows they name, what counts as proved, and what is said of broken ones."""

import pytest
import torch

from gatewise.errors import InvalidInput
from gatewise.readers import read_proved_distances

FILE = """net,index,true_label,optimal_l2,status,lower_bound
a,7,1,0.5,optimal,0.49
b,3,2,0.75,optimal,0.74
a,4,0,0.6,time,
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "proved:distances.csv"  # the last colon is the one that counts
    path.write_text(FILE)
    return path


def test_the_rows_of_a_net_in_the_files_order(file):
    found = read_proved_distances(f"{file}:a", "l2")
    assert found.index.tolist() == [7, 4]
    assert found.labels is not None
    assert found.labels.tolist() == [1, 0]
    assert found.optimum[0] == 0.5
    assert found.optimum[1].isnan()
    assert found.lower_bound is not None
    assert found.lower_bound[0] == 0.49
    assert found.lower_bound[1].isnan()
    assert len(found[:1]) == 1
    assert len(read_proved_distances(f"{file}:b", "l2")) == 1


def test_columns_that_may_be_missing(tmp_path):
    (tmp_path / "plain.csv").write_text("index,net,optimal_linf\n5,a,0.25\n")
    found = read_proved_distances(f"{tmp_path}/plain.csv:a", "linf")
    assert found.optimum.tolist() == [0.25]
    assert found.optimum.dtype == torch.float64
    assert found.lower_bound is None
    assert found.labels is None


@pytest.mark.parametrize(
    ("name", "norm", "said"),
    [
        ("{file}:", "l2", "FILE.csv:NET"),
        (":a", "l2", "FILE.csv:NET"),
        ("{file}:c", "l2", "it has a, b"),
        ("{file}:a", "linf", "optimal_linf"),
        ("nowhere.csv:a", "l2", "nowhere.csv"),
    ],
)
def test_a_wrong_name_is_said(file, name, norm, said):
    with pytest.raises(InvalidInput, match=said):
        read_proved_distances(name.format(file=file), norm)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("7,a,0.5\n", "no column 'net'"),
        ("net,index,optimal_l2\na,7,much\n", "must be a number"),
        ("net,index,optimal_l2\na,seven,0.5\n", "whole number"),
        ("net,index,optimal_l2\na,7\n", "no column 3"),
        ("net,index,optimal_l2\n", "no rows"),
    ],
)
def test_a_broken_file_is_said(tmp_path, text, said):
    (tmp_path / "broken.csv").write_text(text)
    with pytest.raises(InvalidInput, match=said):
        read_proved_distances(f"{tmp_path}/broken.csv:a", "l2")
