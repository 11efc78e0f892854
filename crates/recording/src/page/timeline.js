"use strict";
// The timeline: a row for each processor and device, the counters below, and one zoom for both.
(() => {
  const rowHeight = 25;
  // Of the counters; without any, what their axis of time takes.
  let counterHeight = 90;
  // Slices that are closer than this many pixels are drawn as one.
  const closest = 1;
  // The shortest time that can be shown, in nanoseconds.
  const shortest = 2000;
  const left = 116;
  const right = 56;

  let view = [0, 1];
  let tracks = [];

  /** The slices of a track, as arrays that can be searched. */
  function unpacked(track) {
    const count = track.slices.length / 4;
    const slices = { lane: new Uint16Array(count), kind: new Uint8Array(count), begin: new Float64Array(count), end: new Float64Array(count), longest: 0 };
    let time = 0;
    for (let index = 0; index < count; index++) {
      const [lane, kind, since, duration] = track.slices.slice(index * 4, index * 4 + 4);
      time += since;
      slices.lane[index] = lane;
      slices.kind[index] = kind;
      slices.begin[index] = time;
      slices.end[index] = time + duration;
      slices.longest = Math.max(slices.longest, duration);
    }
    return { ...track, slices, count };
  }

  /** The first slice that begins at or after a time. */
  function firstFrom(begins, time) {
    let [low, high] = [0, begins.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (begins[middle] < time) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  /**
   * What of a track is drawn between two times: for each block its row, lane, kind, beginning, end, how many slices it stands for and how much
   * of it they fill. Slices that are too close for the eye become one block.
   */
  function blocks(track, row, [from, to], nsOfPixel) {
    const { lane, kind, begin, end, longest } = track.slices;
    const open = new Map();
    const done = [];
    const gap = nsOfPixel * closest;
    for (let index = firstFrom(begin, from - longest); index < track.count && begin[index] <= to; index++) {
      if (end[index] < from) continue;
      const key = lane[index] * 16 + kind[index];
      const block = open.get(key);
      const filled = end[index] - begin[index];
      if (block && begin[index] - block[4] < gap && (filled < gap || block[5] > 1 || block[4] - block[3] < gap)) {
        block[4] = Math.max(block[4], end[index]);
        block[5] += 1;
        block[6] += filled;
        continue;
      }
      const next = [row, lane[index], kind[index], begin[index], end[index], 1, filled];
      open.set(key, next);
      done.push(next);
    }
    return done;
  }

  function colourOf(colours, kind) {
    return colours[kind.toLowerCase().split(" ")[0]];
  }

  function drawBlock(colours) {
    return (parameters, api) => {
      const track = tracks[api.value(0)];
      const [lane, kind, begin, end, count, filled] = [1, 2, 3, 4, 5, 6].map((dimension) => api.value(dimension));
      const area = parameters.coordSys;
      const [x, y] = api.coord([begin, api.value(0)]);
      const width = Math.max(api.coord([end, 0])[0] - x, 1);
      const space = rowHeight - 5;
      const height = Math.max(space / track.lanes, 1);
      // A DPC is lower than the interrupts that come in the middle of it.
      const inset = track.kinds[kind] === "DPC" ? space * 0.3 : 0;
      const top = y - space / 2 + lane * (space / track.lanes) + inset;
      const shape = { x, y: top, width, height: Math.max(height - inset - (height > 4 ? 0.5 : 0), 1) };
      const clipped = echarts.graphic.clipRectByRect(shape, area);
      if (!clipped) return undefined;
      const density = count > 1 ? Math.min(filled / (end - begin || 1), 1) : 1;
      return { type: "rect", shape: clipped, style: { fill: colourOf(colours, track.kinds[kind]), opacity: 0.3 + 0.7 * density } };
    };
  }

  function tell({ value }) {
    const [row, , kind, begin, end, count, filled] = value;
    const track = tracks[row];
    const name = count > 1 ? `${count} × ${track.kinds[kind]}` : track.kinds[kind];
    const took = count > 1 ? `${hotadd.duration(filled / count)} each, in ${hotadd.duration(end - begin)}` : hotadd.duration(end - begin);
    return `<b>${track.name}</b><br>${name}<br>at ${(begin / 1e6).toFixed(4)} ms, ${took}`;
  }

  /** A line at each addition, named where there is room for the name. */
  function additions(data, colours, nsOfPixel) {
    let last = -Infinity;
    return data.additions.map(({ time, name, is_processor }) => {
      const inView = time >= view[0] && time <= view[1];
      const hasRoom = inView && time - last > nsOfPixel * 92;
      if (hasRoom) last = time;
      const color = is_processor ? colours.new : colours.write;
      return { xAxis: time, name, lineStyle: { color, type: "dashed", width: 1 }, label: { show: hasRoom, color, formatter: `+ ${name.replace("processor", "CPU")}`, position: "start", fontSize: 11 } };
    });
  }

  function points(counter) {
    const pairs = [];
    for (let index = 0; index < counter.points.length; index += 2) pairs.push([counter.points[index], counter.points[index + 1]]);
    return pairs;
  }

  function counterSeries(data, colours) {
    const palette = { "in flight": [colours.accent, colours.factorial], held: [colours.hold, colours.interrupt] };
    let seen = { "in flight": 0, held: 0 };
    return data.counters.map((counter) => {
      const what = Object.keys(palette).find((name) => counter.name.endsWith(name));
      const color = what ? palette[what][seen[what]++ % 2] : colours.pool;
      const type = counter.name.endsWith("held") ? { areaStyle: { opacity: 0.25, color } } : {};
      return {
        id: counter.name,
        name: counter.name,
        type: "line",
        step: "end",
        symbol: "none",
        xAxisIndex: 1,
        yAxisIndex: counter.is_bytes ? 2 : 1,
        sampling: "max",
        lineStyle: { width: counter.is_bytes ? 1.5 : 1, color, type: counter.is_bytes ? "dashed" : "solid" },
        itemStyle: { color },
        data: points(counter),
        ...type,
      };
    });
  }

  function option(data, colours) {
    const height = tracks.length * rowHeight;
    const axis = hotadd.axis(colours);
    const time = { ...axis, type: "value", min: 0, max: data.span, axisLabel: { ...axis.axisLabel, formatter: (ns) => `${+(ns / 1e6).toFixed(4)} ms`, hideOverlap: true, showMinLabel: false, showMaxLabel: false } };
    const count = { ...axis, type: "value", minInterval: 1, splitNumber: 2 };
    const zoom = { xAxisIndex: [0, 1], filterMode: "none", startValue: view[0], endValue: view[1], minValueSpan: Math.min(shortest, data.span) };
    return {
      animation: false,
      grid: [
        { left, right, top: 24, height },
        { left, right, top: 24 + height + 52, height: counterHeight },
      ],
      legend: { top: 24 + height + 24, left, itemWidth: 14, itemHeight: 8, icon: "roundRect", textStyle: { color: colours.dim, fontSize: 11 }, data: data.counters.map(({ name }) => name) },
      tooltip: { ...hotadd.tooltip(colours), trigger: "item" },
      xAxis: [
        { ...time, gridIndex: 0, position: "bottom", axisLabel: { show: false }, axisLine: { show: false } },
        { ...time, gridIndex: 1, axisPointer: { show: true, snap: true, label: { formatter: ({ value }) => `${(value / 1e6).toFixed(3)} ms` } } },
      ],
      yAxis: [
        { ...axis, type: "category", inverse: true, gridIndex: 0, data: tracks.map((track) => track.name), axisLabel: { ...axis.axisLabel, color: colours.text, interval: 0 }, splitLine: { show: true, lineStyle: { color: colours.grid } } },
        { ...count, gridIndex: 1 },
        { ...axis, type: "value", gridIndex: 1, position: "right", splitLine: { show: false }, splitNumber: 2, axisLabel: { ...axis.axisLabel, formatter: hotadd.bytes } },
      ],
      dataZoom: [
        { type: "inside", ...zoom },
        { type: "slider", ...zoom, bottom: 4, height: 20, left, right, showDataShadow: false, borderColor: colours.line, fillerColor: `${colours.accent}22`, handleStyle: { color: colours.accent }, moveHandleStyle: { color: colours.line }, textStyle: { color: colours.dim }, labelFormatter: (ns) => `${(ns / 1e6).toFixed(2)} ms` },
      ],
      series: [
        { id: "slices", type: "custom", progressive: 0, xAxisIndex: 0, yAxisIndex: 0, renderItem: drawBlock(colours), encode: { x: [3, 4], y: 0 }, tooltip: { formatter: tell }, data: [] },
        { id: "additions", type: "line", xAxisIndex: 0, yAxisIndex: 0, data: [], silent: true, markLine: { symbol: "none", animation: false, data: [] } },
        ...counterSeries(data, colours),
      ],
    };
  }

  /** Draws what is in view, and says how much that is. */
  function drawView(chart, data, colours) {
    const nsOfPixel = (view[1] - view[0]) / Math.max(chart.getWidth() - left - right, 1);
    const items = tracks.flatMap((track, row) => blocks(track, row, view, nsOfPixel));
    chart.setOption({
      series: [
        { id: "slices", data: items },
        { id: "additions", markLine: { data: additions(data, colours, nsOfPixel) } },
      ],
    });
    const place = document.getElementById("timeline");
    Object.assign(place.dataset, { from: Math.round(view[0]), to: Math.round(view[1]), blocks: items.length });
    place.dataset.slices = items.reduce((sum, item) => sum + item[5], 0);
    document.getElementById("range").textContent = `${(view[0] / 1e6).toFixed(3)} – ${(view[1] / 1e6).toFixed(3)} ms: ${hotadd.duration(view[1] - view[0])}`;
  }

  function legend(colours) {
    const kinds = [...new Set(tracks.flatMap((track) => track.kinds.filter((_, kind) => track.slices.kind.includes(kind))))];
    document.getElementById("legend").replaceChildren(
      ...kinds.map((kind) => {
        const entry = hotadd.element("span", "");
        const colour = hotadd.element("i", "");
        colour.style.background = colourOf(colours, kind);
        entry.append(colour, kind);
        return entry;
      }),
    );
  }

  let start;
  hotadd.parts.push((data, colours) => {
    const isFirst = !start;
    if (isFirst) {
      tracks = data.tracks.map(unpacked);
      view = [0, data.span];
      if (!data.counters.length) counterHeight = 8;
      document.getElementById("timeline").style.height = `${24 + tracks.length * rowHeight + 52 + counterHeight + 56}px`;
    }
    const chart = hotadd.chart("timeline");
    legend(colours);
    chart.setOption(option(data, colours), { notMerge: true });
    drawView(chart, data, colours);
    if (!isFirst) return;
    start = true;
    chart.on("datazoom", () => {
      const { startValue, endValue } = chart.getOption().dataZoom[0];
      view = [startValue, endValue];
      drawView(chart, data, hotadd.colours());
    });
    const zoom = (from, to) => chart.dispatchAction({ type: "dataZoom", startValue: Math.max(from, 0), endValue: Math.min(to, data.span) });
    hotadd.zoomTo = (time) => {
      const half = Math.min(data.span, 1e6) / 2;
      zoom(time - half, time + half);
      document.getElementById("timeline-title").scrollIntoView({ block: "nearest" });
    };
    document.getElementById("reset").addEventListener("click", () => zoom(0, data.span));
    addEventListener("resize", () => drawView(chart, data, hotadd.colours()));
  });
})();
