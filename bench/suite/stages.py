"""Where an operation's time goes: the profiles that `tensorctl bench profile` takes, as a table and a picture.

A profile's parts were all measured in one run. Client and engine run on two cores at once, so each has a bar of its own over the same time.
"""

from dataclasses import dataclass

from figures import short

# Of a client: what it does until it waits, then what it waits for.
CLIENT = {"submitting": "#1f6f8b", "the engine's work": "#a9d3df", "crossing": "#d95f4c"}
# Of the engine's thread, in the order in which a request meets them.
ENGINE = {
    "ingest": "#3b5b92", "graph": "#6a8fc7", "transfer": "#2a9d8f", "lookup": "#8ab17d", "schedule": "#c9cf6f", "dispatch": "#e9c46a",
    "execution": "#f4a261", "completion": "#b07aa1", "wake": "#e76f51", "control": "#8d99ae", "idle": "#e8e8e8",
}
IDLE = ("polling", "parked")


@dataclass
class Profile:
    """One kind of work; `told` is what `tensorctl` says of it."""

    told: dict

    @property
    def name(self):
        """What was done."""
        return self.told["name"]

    @property
    def wall_ns(self):
        """Of one operation."""
        return self.told["wall_ns"]

    def ns(self, side, name=None):
        """Nanoseconds of one part, or of all of a side."""
        return sum(part["ns"] for part in self.told["parts"] if part["side"] == side and name in (None, part["name"]))

    def client(self):
        """What the client's time went to, `{name: ns}`: together the time on the wall."""
        crossing = self.ns("crossing")
        return {
            "submitting": self.ns("client", "submitting"),
            "the engine's work": self.ns("client", "waiting") - crossing,
            "crossing": crossing,
        }

    def engine(self):
        """What the time of the engine's thread went to, `{name: ns}`."""
        stages = {name: self.ns("engine", name) for name in ENGINE if name != "idle"}
        return {**stages, "idle": sum(self.ns("engine", name) for name in IDLE)}

    def line(self):
        """One line for a terminal."""
        parts = {**self.client(), **self.engine()}
        largest = sorted(parts.items(), key=lambda part: -part[1])[:5]
        text = ", ".join(f"{name} {ns / self.wall_ns:.0%}" for name, ns in largest)
        return f"       {self.name}: {short(self.wall_ns)} ns an operation; {text}"

    def json(self):
        """For `results.json`."""
        return self.told


def markdown(profiles, about):
    """The table: a column for each kind of work, nanoseconds of one operation and their share of the time on the wall."""
    if not profiles:
        return ""
    first = profiles[0]
    rows = [("client: ", name, Profile.client) for name in first.client()] + [("engine: ", name, Profile.engine) for name in first.engine()]
    lines = [
        "## Where an operation's time goes", "",
        f"Nanoseconds of one operation and their share of its time on the wall, on {about['machine']}, {about['date']}; everything in a column was measured",
        "in one run, by `tensorctl bench profile`. The client's rows add up to the wall. The engine runs beside it on another core: of a chain it takes",
        "records in (ingest, graph) while the client still submits. What of the waiting is none of the engine's stages is the crossing: until the engine",
        "sees what was published, until the client sees the outcome, and what the client does itself meanwhile, reading a result included.", "",
        f"| | {' | '.join(profile.name for profile in profiles)} |",
        f"|---|{'---:|' * len(profiles)}",
        f"| on the wall | {' | '.join(f'**{short(profile.wall_ns)}**' for profile in profiles)} |",
    ]
    for who, name, parts in rows:
        cells = []
        for profile in profiles:
            ns = parts(profile)[name]
            cells.append(f"{short(ns)} ({ns / profile.wall_ns:.0%})" if ns else "")
        lines.append(f"| {who}{name} | {' | '.join(cells)} |")
    return "\n".join(["", *lines]) + "\n"


def picture(profiles, file):
    """Two bars for each kind of work, over the same time: the client's and the engine's."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    if not profiles:
        return
    with pyplot.rc_context({"svg.hashsalt": "tensord", "font.size": 8}):
        drawing, axes = pyplot.subplots(len(profiles), 1, figsize=(12, 1.1 * len(profiles) + 1.2), squeeze=False)
        for axis, profile in zip(axes.flat, profiles):
            for row, (parts, colours) in enumerate(((profile.client(), CLIENT), (profile.engine(), ENGINE))):
                left = 0.0
                for name, ns in parts.items():
                    axis.barh(row, ns, left=left, color=colours[name], edgecolor="white", linewidth=0.4)
                    if ns > 0.06 * profile.wall_ns:
                        axis.text(left + ns / 2, row, f"{name}\n{short(ns)}", ha="center", va="center", fontsize=6.5)
                    left += ns
            axis.set_yticks([0, 1], ["client", "engine"])
            axis.invert_yaxis()
            axis.set_xlim(0, profile.wall_ns)
            axis.set_xticks([])
            axis.set_title(f"{profile.name}: {short(profile.wall_ns)} ns an operation", fontsize=8, loc="left")
            axis.spines[["top", "right", "bottom"]].set_visible(False)
        patches = [pyplot.Rectangle((0, 0), 1, 1, color=colour) for colour in (CLIENT | ENGINE).values()]
        drawing.legend(patches, list(CLIENT | ENGINE), loc="lower center", ncols=7, frameon=False)
        drawing.tight_layout(rect=(0, 0.09, 1, 1))
        drawing.savefig(file, metadata={"Date": None})
        pyplot.close(drawing)
