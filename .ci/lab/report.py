"""What the steps have found."""

import time

# A client that is told to move is back within this time.
AWAY_S = 2.0


class Report:
    def __init__(self):
        self.began = time.monotonic()
        self.passed = self.failed = 0
        self.lines = []

    def say(self, text):
        line = f"{time.monotonic() - self.began:6.0f} s  {text}"
        print(line)
        self.lines.append(line)

    def check(self, what, well, figures=""):
        self.passed += bool(well)
        self.failed += not well
        self.say(f"{'ok  ' if well else 'FAIL'} {what}{': ' if figures else ''}{figures}")

    def load(self, what, found, away_s=AWAY_S):
        self.check(f"{what}: nothing lost, doubled or reordered", found.whole(), str(found))
        self.check(f"{what}: nothing refused", found.refused == 0, str(found.refused))
        if away_s is not None:
            self.check(f"{what}: nobody away for longer than {away_s:g} s", found.longest_away_s <= away_s, f"{found.longest_away_s:.2f} s")


report = Report()
