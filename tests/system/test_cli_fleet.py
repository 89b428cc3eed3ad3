"""`insitu fleet`: fleets of several sizes by one command, in numbers a program can read."""

from __future__ import annotations

from tests.system.command import Insitu

FLEET = ("fleet", "--scenes", "rotate:2,none", "--samples", "64", "--labels", "60")


def test_json(insitu: Insitu) -> None:
    found = insitu(*FLEET, "--devices", "1,3", "--json").json
    assert [one["devices"] for one in found["fleets"]] == [1, 3]
    for one in found["fleets"]:
        assert len(one["each"]) == one["devices"]
        given = sum(each["labels"] for each in one["each"])
        assert 0 < given == one["teacher"]["samples"] - one["teacher"]["questions"] < one["teacher"]["samples"] <= 60
        assert one["labels"]["least"] <= one["labels"]["mean"] <= one["labels"]["most"]
    assert [one["scene"] for one in found["fleets"][1]["each"]] == ["rotate:2", "none", "rotate:2"]
    assert set(found["accuracy_teacher"]) == {"rotate:2", "none"}


def test_table(insitu: Insitu) -> None:
    outcome = insitu(*FLEET, "--devices", "2")
    assert outcome.code == 0
    assert "one teacher" not in outcome.err
    assert "of" in outcome.out
    assert "->" in outcome.out
