"use strict";
// The processors before and after, and the histogram of holds.
(() => {
  const measures = { requests: "requests finished", dpcs: "DPCs", interrupts: "interrupts" };
  let measure = "requests";

  function processors(data, colours) {
    const rounded = (value) => Number(value.toPrecision(3));
    const total = (period) => data.processors.reduce((sum, processor) => sum + processor[measure][period], 0);
    const bar = (period, color) => ({
      name: `${data.periods[period]}: ${rounded(total(period))} a millisecond in all`,
      type: "bar",
      barGap: "10%",
      barCategoryGap: "35%",
      itemStyle: { color, borderRadius: [3, 3, 0, 0] },
      data: data.processors.map((processor) => rounded(processor[measure][period])),
    });
    const isNew = new Set(data.processors.filter((processor) => processor.is_new).map((processor) => processor.name));
    const option = {
      animation: false,
      grid: { left: 8, right: 12, top: 44, bottom: 4, containLabel: true },
      legend: { top: 0, left: 0, itemWidth: 12, itemHeight: 10, textStyle: { color: colours.dim } },
      tooltip: { ...hotadd.tooltip(colours), trigger: "axis", axisPointer: { type: "shadow" }, valueFormatter: (value) => `${value} a millisecond` },
      xAxis: {
        ...hotadd.axis(colours),
        type: "category",
        data: data.processors.map((processor) => processor.name),
        axisLabel: {
          fontSize: 11,
          formatter: (name) => (isNew.has(name) ? `${name}\n{added|added}` : name),
          color: colours.dim,
          lineHeight: 15,
          interval: data.processors.length > 16 ? "auto" : 0,
          rich: { added: { color: colours.new, fontSize: 11, lineHeight: 15 } },
        },
      },
      yAxis: { ...hotadd.axis(colours), type: "value", name: `${measures[measure]} a millisecond`, nameGap: 10, nameTextStyle: { color: colours.dim, align: "left", fontSize: 11 } },
      series: [bar(0, colours.before), bar(1, colours.after)],
    };
    hotadd.chart("processors").setOption(option, { notMerge: true });
  }

  function choices(data) {
    const place = document.getElementById("measure");
    if (place.childElementCount) return;
    for (const name of Object.keys(measures)) {
      const button = hotadd.element("button", "", name === "dpcs" ? "DPCs" : name);
      button.type = "button";
      button.setAttribute("aria-pressed", String(name === measure));
      button.addEventListener("click", () => {
        measure = name;
        for (const other of place.children) other.setAttribute("aria-pressed", String(other === button));
        processors(data, hotadd.colours());
      });
      place.append(button);
    }
  }

  /** Ends of bins, 1-2-5 for each power of ten, around all durations. */
  function bins(durations) {
    if (!durations.length) return [];
    const steps = [1, 2, 5].map(Math.log10);
    const ends = [];
    for (let power = 0; power < 14; power++) for (const step of steps) ends.push(Math.round(10 ** (power + step)));
    const [least, most] = [Math.min(...durations), Math.max(...durations)];
    const first = ends.findLastIndex((end) => end <= least);
    const last = ends.findIndex((end) => end > most);
    return ends.slice(Math.max(first, 0), last + 1);
  }

  function holds(data, colours) {
    const ends = bins(data.holds.map((hold) => hold.duration));
    const palette = [colours.hold, colours.factorial, colours.read, colours.interrupt];
    const series = data.devices.map((name, index) => {
      const counts = ends.slice(1).map(() => 0);
      for (const hold of data.holds.filter((each) => each.device === index + 1)) {
        counts[ends.findLastIndex((end) => end <= hold.duration)]++;
      }
      return { name, type: "bar", stack: "holds", barCategoryGap: "8%", itemStyle: { color: palette[index % palette.length] }, data: counts };
    });
    hotadd.chart("holds").setOption({
      animation: false,
      grid: { left: 8, right: 12, top: 44, bottom: 4, containLabel: true },
      legend: { top: 0, left: 0, itemWidth: 12, itemHeight: 10, textStyle: { color: colours.dim } },
      tooltip: { ...hotadd.tooltip(colours), trigger: "axis", axisPointer: { type: "shadow" } },
      xAxis: {
        ...hotadd.axis(colours),
        type: "category",
        data: ends.slice(1).map((end, index) => `${short(ends[index])} – ${short(end)}`),
        axisLabel: { color: colours.dim, fontSize: 11, lineHeight: 15, hideOverlap: true, interval: 0, formatter: (label) => label.replace(" – ", "\n– ") },
      },
      yAxis: { ...hotadd.axis(colours), type: "value", minInterval: 1, name: "holds", nameGap: 10, nameTextStyle: { color: colours.dim, align: "left", fontSize: 11 } },
      series,
    });
    document.getElementById("holds").dataset.count = data.holds.length;
  }

  function short(ns) {
    if (ns < 1e3) return `${ns} ns`;
    return ns < 1e6 ? `${ns / 1e3} µs` : `${ns / 1e6} ms`;
  }

  hotadd.parts.push((data, colours) => {
    choices(data);
    processors(data, colours);
    holds(data, colours);
  });
})();
