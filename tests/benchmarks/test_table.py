from pathlib import Path

import pytest

from benchmarks.table import Rows, heading, line


def test_a_finished_row_is_printed_again_but_not_made_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "folder" / "rows.json"
    Rows(path).print("first", lambda: ["a", "1"])
    again = Rows(path)
    assert "first" in again
    assert "second" not in again
    again.print("first", lambda: pytest.fail("the row was finished"))
    again.print("second", lambda: ["b", "2"])
    assert capsys.readouterr().out == "| a | 1 |\n| a | 1 |\n| b | 2 |\n"
    assert "second" in Rows(path)


def test_the_heading_ends_in_a_markdown_table_head() -> None:
    assert heading("what", ["x", "y"]).endswith(f"what\n\n{line(['x', 'y'])}\n| --- | --- |")
