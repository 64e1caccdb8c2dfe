// Draws each chart over its still picture, in the width there is. Without scripts the pictures stay.
"use strict";
for (const card of document.querySelectorAll("[data-spec]")) {
  const picture = card.querySelector("img");
  const chart = card.querySelector(".chart");
  const text = document.getElementById(card.dataset.spec).textContent;
  const panel = Number(card.dataset.panel);
  const room = () => card.clientWidth - 12;
  let drawn = null;
  let columns = null;

  const draw = async () => {
    const spec = JSON.parse(text);
    // The page's own heading and caption say it, and these lines do not wrap.
    delete spec.title;
    if (panel) {
      columns = Math.max(1, Math.min(spec.columns, Math.floor(room() / panel)));
      spec.columns = columns;
    } else {
      spec.width = "container";
      spec.autosize = {type: "fit-x", contains: "padding"};
    }
    if (room() < 480) spec.config.legend.columns = 1;
    if (drawn) drawn.finalize();
    drawn = await vegaEmbed(chart, spec, {
      renderer: "svg",
      actions: {export: true, source: false, compiled: false, editor: false},
    });
    picture.hidden = true;
  };

  draw();
  if (panel) {
    let waiting = null;
    addEventListener("resize", () => {
      clearTimeout(waiting);
      waiting = setTimeout(() => {
        const fitting = Math.max(1, Math.min(JSON.parse(text).columns, Math.floor(room() / panel)));
        if (fitting !== columns) draw();
      }, 200);
    });
  }
}
