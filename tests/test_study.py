"""What is said of how far a study is."""

from layerprune import study
from layerprune.study import Share, show_grid


def said(monkeypatch, capsys, *lines):
    monkeypatch.setattr(study, "shares", lambda _: lines)
    show_grid([])
    return " ".join(capsys.readouterr().out.split())


def test_time_is_told_of_what_is_to_do_alone(monkeypatch, capsys):
    done, new = Share("a", 6, 0, 0, 0.0), Share("b", 0, 0, 3, None)
    assert "9 points, 3 to do." in said(monkeypatch, capsys, done, new)
    some = Share("c", 2, 1, 4, 120.0)
    text = said(monkeypatch, capsys, done, some)
    assert "12 points, 4 to do: about 2 min, by those of their kind that are done." in text
    text = said(monkeypatch, capsys, done, new, some)
    assert "15 points, 7 to do: about 2 min" in text
    assert text.endswith("that are done, but for 3 of which none is done.")
