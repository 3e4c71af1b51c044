"""What the suite says of its figures: a table in Markdown, pictures."""

import textwrap
from statistics import median

from figures import short

OURS, THEIRS = "#1f6f8b", "#b8b8b8"


# What people use today, by the beginning of its name.
LIBRARIES = ("numpy", "numexpr", "jax", "torch", "onnxruntime", "gemm", "iceoryx2")


def is_product(figure):
    """One of the many products of the grid, which the table and the pictures show together."""
    return figure.name.startswith("product ")


def markdown(figures, about):
    """The table."""
    lines = [
        f"Measured on {about['machine']}, {about['date']}: medians of {about['runs']} runs that took turns with the peers',",
        f"with half of the distance between their quarters. Peers: {about['peers']}.",
        "",
        "| what | tensord | beside | wanted |",
        "|---|---|---|---|",
    ]
    for figure in figures:
        if is_product(figure):
            continue
        peers = "<br>".join(f"{figure.ratio(name):.2f} of {name}, {short(median(runs))}" for name, runs in figure.peers.items())
        wanted = "<br>".join(
            f"{text}: {'not run' if holds is None else 'holds' if holds else '**short**'}" for text, _, holds in figure.verdicts()
        )
        lines.append(f"| {figure.name} | {short(figure.value)} {figure.unit} ±{figure.spread:.0%} | {peers} | {wanted} |")
    products = [figure for figure in figures if is_product(figure)]
    if products:
        ratios = sorted((figure.ratio("gemm"), figure.name.split()[1]) for figure in products)
        reached = sum(ratio >= 1 for ratio, _ in ratios)
        lines += [
            f"| products with a packed constant, f32, one thread: {len(products)} sizes | {median(r for r, _ in ratios):.2f} of gemm in the middle "
            f"| from {ratios[0][0]:.2f} ({ratios[0][1]}) to {ratios[-1][0]:.2f} ({ratios[-1][1]}) "
            f"| at least 1 of gemm: {reached} of {len(products)} hold |"
        ]
    return "\n".join(lines) + "\n"


def overview(figures, file):
    """Ours beside what people use today, a small chart for each figure that has such a peer. The table has the others."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    shown = [figure for figure in figures if any(peer.startswith(LIBRARIES) for peer in figure.peers) and not is_product(figure)]
    if not shown:
        return
    columns = 3
    rows = -(-len(shown) // columns)
    with pyplot.rc_context({"svg.hashsalt": "tensord", "font.size": 8}):
        picture, axes = pyplot.subplots(rows, columns, figsize=(12, 1.8 * rows), squeeze=False)
        for axis in axes.flat[len(shown):]:
            axis.axis("off")
        for figure, axis in zip(shown, axes.flat):
            names = ["tensord", *(textwrap.fill(peer, 28) for peer in figure.peers)]
            values = [figure.value, *(median(runs) for runs in figure.peers.values())]
            axis.barh(names, values, color=[OURS] + [THEIRS] * len(figure.peers))
            axis.invert_yaxis()
            axis.tick_params(axis="y", labelsize=7)
            better = "more" if figure.more_is_better else "less"
            axis.set_title(f"{textwrap.fill(figure.name, 32)}\n{figure.unit}, {better} is better", fontsize=8, loc="left")
            axis.bar_label(axis.containers[0], labels=[short(value) for value in values], padding=2)
            axis.margins(x=0.35)
            axis.spines[["top", "right"]].set_visible(False)
            axis.set_xticks([])
        picture.tight_layout()
        picture.savefig(file, metadata={"Date": None})
        pyplot.close(picture)


def grid(figures, file):
    """The products as multiples of `gemm`'s speed: a square for each number of rows."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    ratios = {}
    for figure in filter(is_product, figures):
        rows, depth, width = map(int, figure.name.split()[1].split("x"))
        ratios.setdefault(rows, {})[depth, width] = figure.ratio("gemm")
    if not ratios:
        return
    with pyplot.rc_context({"svg.hashsalt": "tensord", "font.size": 8}):
        picture, axes = pyplot.subplots(1, len(ratios), figsize=(2.6 * len(ratios), 2.8), squeeze=False)
        for (rows, cells), axis in zip(ratios.items(), axes.flat):
            depths, widths = (sorted({key[place] for key in cells}) for place in (0, 1))
            table = [[cells[depth, width] for width in widths] for depth in depths]
            axis.imshow(table, cmap="RdYlGn", vmin=0, vmax=2)
            for y, line_of in enumerate(table):
                for x, ratio in enumerate(line_of):
                    axis.text(x, y, f"{ratio:.2f}", ha="center", va="center")
            axis.set_xticks(range(len(widths)), widths)
            axis.set_yticks(range(len(depths)), depths)
            axis.set_title(f"M = {rows}", fontsize=8)
            axis.set_xlabel("N")
            axis.set_ylabel("K")
        picture.suptitle("speed as a multiple of gemm's, one thread")
        picture.tight_layout()
        picture.savefig(file, metadata={"Date": None})
        pyplot.close(picture)
