"""The points that a search asked for are read back, whatever was cut off."""

from study.config.search_space import Point, SearchState
from study.storage import search_journal


class TestPoints:
    ASKED = (Point("a", 0, 0.1, None), Point("b", 0, 0.2, 1e-3), Point("a", 1, 0.3, None))

    def test_what_was_appended_is_read_back_and_the_last_choice_counts(self, tmp_path):
        path = tmp_path / "search" / "points.journal"
        assert search_journal.read(path) == SearchState()
        search_journal.ask(path, self.ASKED[:2])
        search_journal.choose(path, self.ASKED[0])
        search_journal.ask(path, self.ASKED[2:])
        search_journal.choose(path, self.ASKED[2])
        assert search_journal.read(path) == SearchState(self.ASKED, (("a", 1),))

    def test_any_prefix_is_readable_and_can_be_written_on(self, tmp_path):
        path = tmp_path / "points.journal"
        search_journal.ask(path, self.ASKED)
        whole = path.read_bytes()
        for length in range(len(whole)):
            path.write_bytes(whole[:length])
            known = search_journal.read(path).points
            assert known == self.ASKED[: len(known)]
            search_journal.ask(path, self.ASKED[len(known) :])
            assert search_journal.read(path).points == self.ASKED
