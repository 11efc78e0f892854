"use strict";
// The table of events.
hotadd.parts.push((data) => {
  const body = document.querySelector("#events tbody");
  if (body.childElementCount) return;
  const filter = document.getElementById("filter");
  const rows = data.events.map((event) => {
    const row = hotadd.element("tr", event.is_addition ? "added" : "");
    const device = event.device ? data.devices[event.device - 1] ?? `device ${event.device}` : "driver";
    const cells = [event.sequence, (event.time / 1e6).toFixed(4), device, event.kind, event.text];
    row.append(...cells.map((cell, column) => hotadd.element("td", column < 2 ? "number" : "", cell)));
    row.addEventListener("click", () => hotadd.zoomTo(event.time));
    return { row, text: cells.slice(2).join(" ").toLowerCase() };
  });
  body.append(...rows.map(({ row }) => row));
  const show = () => {
    const words = filter.value.toLowerCase().split(/\s+/);
    let shown = 0;
    for (const { row, text } of rows) {
      row.hidden = !words.every((word) => text.includes(word));
      shown += !row.hidden;
    }
    document.getElementById("shown").textContent = `${shown} of ${rows.length}`;
  };
  filter.addEventListener("input", show);
  show();
});
