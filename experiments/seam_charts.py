"""The figures of `experiments/seam_damage.md`."""

import altair as alt
from seam_passes import WHOLE, Kept, cuts, rises
from seam_tables import Groups

from layerprune.report.figures import theme


def drift_chart(kept: dict[str, Kept]) -> alt.HConcatChart:
    """How far states above each seam are from the dense model's: first tokens, and all others."""
    names = list(cuts(kept))

    def panel(first: bool) -> alt.Chart:
        data = [
            {"model": name, "layer": kept[name].layers[0] + slot, "value": float(value)}
            for name in names
            for slot, value in enumerate(kept[name].angle(first))
        ]
        return _lines(
            data, names, "angular distance (units of pi)" if first else "",
            "first token of a sequence" if first else "all other tokens", 300,
            alt.Scale(domain=[0, 0.75]),
        )  # fmt: skip

    return alt.hconcat(panel(first=True), panel(first=False)).properties(
        title="Distance of the states above a seam from the dense model's"
    )


def sink_chart(kept: dict[str, Kept]) -> alt.HConcatChart:
    """The norm of the first token's state, and the attention on it, by layer."""
    norms, shares = [], []
    for name, one in kept.items():
        for slot, value in enumerate(one.norm(first=True)):
            norms.append({"model": name, "layer": one.layers[0] + slot, "value": float(value)})
        for slot, value in enumerate(one.share):
            shares.append({"model": name, "layer": one.layers[0] + slot, "value": float(value)})
    names = list(kept)
    return alt.hconcat(
        _lines(norms, names, "norm of the first token's state", "norm", 300,
               alt.Scale(type="log")),
        _lines(shares, names, "attention on the first token", "attention", 300,
               alt.Scale(domain=[0, 1])),
    ).properties(title="The first token as an attention sink")  # fmt: skip


def token_chart(kept: dict[str, Kept], groups: Groups) -> alt.Chart:
    """By how much the loss of each group of tokens rises without each block."""
    rise = rises(kept)
    names = list(rise)
    order = [group for group, chosen in groups.items() if chosen.any()]
    data = [
        {"model": name, "group": group, "rise": float(rise[name][groups[group]].mean())}
        for name in names
        for group in order
    ]
    color, shape = _told_apart(names)
    return (
        alt.Chart(alt.Data(values=data))
        .mark_point(filled=True, opacity=1, size=80)
        .encode(
            x=alt.X("rise:Q", title="loss above the dense model's (nats)"),
            y=alt.Y("group:N", sort=order, title=None, axis=alt.Axis(labelLimit=300, grid=True)),
            color=color,
            shape=shape,
        )
        .properties(width=440, height=26 * len(order), title="Which tokens lose")
    )


def _lines(
    data: list[dict[str, object]],
    names: list[str],
    y: str,
    title: str,
    width: int,
    scale: alt.Scale,
) -> alt.Chart:
    color, shape = _told_apart(names)
    return (
        alt.Chart(alt.Data(values=data))
        .mark_line(strokeWidth=1.75, point={"size": 40, "filled": True})
        .encode(
            x=alt.X("layer:Q", title="layer that the state enters",
                    axis=alt.Axis(tickMinStep=1, tickCount=10)),
            y=alt.Y("value:Q", title=y, scale=scale),
            color=color,
            shape=shape,
        )
        .properties(width=width, height=260, title=alt.TitleParams(text=title, fontSize=13))
    )  # fmt: skip


def _told_apart(names: list[str]) -> tuple[alt.Color, alt.Shape]:
    """The dense model in grey, each block in a different colour and shape."""
    blocks = [name for name in names if name != WHOLE]
    hues = {WHOLE: theme.DENSE, **dict(zip(blocks, theme.HUES, strict=False))}
    shapes = {WHOLE: "circle", **dict(zip(blocks, theme.SHAPES, strict=False))}
    legend = alt.Legend(title="layers removed", titleOrient="left", orient="top")
    return (
        alt.Color("model:N", legend=legend,
                  scale=alt.Scale(domain=names, range=[hues[name] for name in names])),
        alt.Shape("model:N", legend=legend,
                  scale=alt.Scale(domain=names, range=[shapes[name] for name in names])),
    )  # fmt: skip
