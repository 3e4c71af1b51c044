"""What a case gives: a figure of ours beside those of its peers, run by run, and what it should reach."""

from dataclasses import dataclass, field
from statistics import median

MARKS = {True: "holds", False: "SHORT", None: ""}


def short(value):
    """Three digits that say something."""
    size = abs(value)
    return f"{value:,.0f}" if size >= 100 else f"{value:.1f}" if size >= 10 else f"{value:.2f}" if size >= 1 else f"{value:.3f}"


@dataclass
class Wanted:
    """Ours as a multiple of `of` (or by itself, where that is None): at least, or at most, so much."""

    bound: float
    of: str | None = None

    def text(self, more_is_better, unit):
        """For the table."""
        side = "at least" if more_is_better else "at most"
        return f"{side} {self.bound:g} {unit}" if self.of is None else f"{side} {self.bound:g} of {self.of}"


@dataclass
class Figure:
    """One line of the report. `runs` and those of the peers took turns."""

    name: str
    unit: str
    more_is_better: bool
    runs: list[float]
    peers: dict[str, list[float]] = field(default_factory=dict)
    wanted: list[Wanted] = field(default_factory=list)

    def line(self):
        """One line for a terminal."""
        peers = ", ".join(f"{self.ratio(name):.2f} of {name} ({short(median(runs))})" for name, runs in self.peers.items())
        verdicts = list(self.verdicts())
        known = [holds for _, _, holds in verdicts if holds is not None]
        mark = MARKS[all(known) if known else None]
        wanted = "; ".join(text if holds is not None else f"{text}: not run" for text, _, holds in verdicts)
        return (
            f"{mark:5}  {self.name}: {short(self.value)} {self.unit} +-{self.spread:.0%}"
            + (f", {peers}" if peers else "") + (f" (wanted: {wanted})" if wanted else "")
        )

    @property
    def value(self):
        """Ours, in the middle."""
        return median(self.runs)

    @property
    def spread(self):
        """Half of the distance between the quarters, as a share of the middle."""
        ordered = sorted(self.runs)
        low, high = ordered[len(ordered) // 4], ordered[-1 - len(ordered) // 4]
        return (high - low) / 2 / self.value if self.value else 0.0

    def ratio(self, peer):
        """Ours as a multiple of a peer's, run by run, in the middle."""
        return median(ours / theirs for ours, theirs in zip(self.runs, self.peers[peer]))

    def verdicts(self):
        """`(text, reached or None where the peer did not run, holds)` for each thing wanted."""
        for wanted in self.wanted:
            text = wanted.text(self.more_is_better, self.unit)
            if wanted.of is not None and wanted.of not in self.peers:
                yield text, None, None
                continue
            reached = self.value if wanted.of is None else self.ratio(wanted.of)
            yield text, reached, reached >= wanted.bound if self.more_is_better else reached <= wanted.bound

    def json(self):
        """For `results.json`."""
        return {
            "name": self.name, "unit": self.unit, "more_is_better": self.more_is_better,
            "median": self.value, "spread": self.spread, "runs": self.runs,
            "peers": {
                name: {"median": median(runs), "runs": runs, "ratio": self.ratio(name)} for name, runs in self.peers.items()
            },
            "wanted": [
                {"text": text, "reached": reached, "holds": holds, "bound": wanted.bound, "of": wanted.of}
                for wanted, (text, reached, holds) in zip(self.wanted, self.verdicts())
            ],
        }

    @classmethod
    def of_json(cls, told):
        """The figure of which `json` told."""
        peers = {name: peer["runs"] for name, peer in told["peers"].items()}
        wanted = [Wanted(one["bound"], one["of"]) for one in told["wanted"]]
        return cls(told["name"], told["unit"], told["more_is_better"], told["runs"], peers, wanted)


def of_seconds(seconds, work):
    """A rate for each run."""
    return [work / each for each in seconds]
