"""What a record says of what a run was computed in."""

from src.runs.environment import environment


def test_environment():
    found = environment()
    assert found["packages"]["tensorflow"] and found["python"].startswith("3.") and found["processor"]
    git = found["git"]
    assert git is None or (len(git["commit"]) == 40 and isinstance(git["dirty"], bool))
