"""The mean of probabilities, and how members differ."""

import json

import pytest
import torch

from groundup.basis.errors import UsageError
from groundup.evaluation import diversity, ensemble


def test_it_is_the_log_of_the_mean_of_the_probabilities() -> None:
    members = [torch.randn(20, 7, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]
    result = ensemble(members)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result.exp(), torch.stack([member.softmax(1) for member in members]).mean(0))


def test_one_member_is_itself_and_a_constant_added_to_its_logits_changes_nothing() -> None:
    logits = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ensemble([logits]), logits.log_softmax(1))
    torch.testing.assert_close(ensemble([logits, logits + 50]), logits.log_softmax(1))


def test_very_sure_members_that_differ_stay_finite() -> None:
    result = ensemble([torch.tensor([[1000.0, 0.0, -1000.0]]), torch.tensor([[0.0, 1000.0, -1000.0]])])
    torch.testing.assert_close(result.exp(), torch.tensor([[0.5, 0.5, 0.0]]))
    assert torch.isfinite(result).all()


def test_probabilities_are_averaged_and_not_logits() -> None:
    # The mean of the logits prefers class 0, the mean of the probabilities class 1.
    result = ensemble([torch.tensor([[20.0, 0.0]]), torch.tensor([[-1.0, 1.0]]), torch.tensor([[-1.0, 1.0]])])
    assert result.argmax(1).tolist() == [1]


def test_diversity_counts_disagreements_and_what_no_member_knows() -> None:
    predictions = torch.tensor([[0, 1, 2, 0], [0, 1, 1, 0], [0, 0, 1, 0]])
    members = [torch.nn.functional.one_hot(row, 3).float() for row in predictions]
    result = diversity(members, torch.tensor([0, 1, 2, 1]))
    assert result.accuracies == (0.75, 0.5, 0.25)
    assert result.pairs == ((0, 0.25, 0.5), (0.25, 0, 0.25), (0.5, 0.25, 0))
    assert result.disagreement == pytest.approx(1 / 3)
    assert (result.all_right, result.none_right) == (0.25, 0.25)
    assert result.ensemble_accuracy == 0.5
    assert result.gain == pytest.approx(0)
    assert json.loads(json.dumps(result.to_dict()))["pairs"][0] == [0, 0.25, 0.5]
    assert "ensemble of 3: top-1 50.00%, members 25.00% to 75.00%" in str(result)


def test_a_single_member_never_disagrees() -> None:
    assert diversity([torch.eye(3)], torch.arange(3)).disagreement == 0


def test_members_must_be_of_the_same_images_and_classes() -> None:
    with pytest.raises(UsageError, match=r"member 2 .* \(4, 3\), the first \(4, 5\)"):
        ensemble([torch.zeros(4, 5), torch.zeros(4, 3)])
    with pytest.raises(UsageError, match="at least one member"):
        ensemble([])
