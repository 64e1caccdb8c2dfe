// Draws each chart over its still picture, in the width there is. Without scripts the pictures stay.
"use strict";

const EDGE = 66; // pixels that a figure takes beside its panels: padding and an axis

function prepare(spec, room, panel) {
  // The page's own heading and caption say it, and these lines would not wrap.
  delete spec.title;
  if (room < 480) Object.assign(spec.config.legend, {columns: 1, layout: {top: {direction: "vertical"}}});
  if (!panel) {
    spec.width = "container";
    spec.autosize = {type: "fit-x", contains: "padding"};
    return spec;
  }
  spec.columns = Math.max(1, Math.min(spec.columns, Math.floor((room - EDGE) / panel)));
  for (const view of spec.concat ?? [spec.spec]) {
    const square = view.width === view.height;
    view.width = Math.max(120, Math.min(view.width, room - 90));
    if (square) view.height = view.width;
  }
  return spec;
}

for (const card of document.querySelectorAll("[data-spec]")) {
  const picture = card.querySelector("img");
  const chart = card.querySelector(".chart");
  const text = document.getElementById(card.dataset.spec).textContent;
  const panel = Number(card.dataset.panel);
  let drawn = null;
  let room = 0;

  const draw = async () => {
    if (card.clientWidth === room) return;
    const first = !room;
    room = card.clientWidth;
    if (!first && !panel) return; // one panel follows its card by itself
    drawn?.finalize();
    picture.hidden = true;
    try {
      drawn = await vegaEmbed(chart, prepare(JSON.parse(text), room - 12, panel), {
        renderer: "svg",
        actions: {export: true, source: false, compiled: false, editor: false},
      });
    } catch (error) {
      picture.hidden = false;
      throw error;
    }
  };

  draw();
  let waiting = null;
  addEventListener("resize", () => {
    clearTimeout(waiting);
    waiting = setTimeout(draw, 200);
  });
}
