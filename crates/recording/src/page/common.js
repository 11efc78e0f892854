"use strict";
// What the parts of the page share.
const hotadd = {
  parts: [],
  charts: [],

  /** Shows a recording: every part gets the data, and draws again when the colours change. */
  show(data) {
    const text = (id, content) => {
      const element = document.getElementById(id);
      element.textContent = content;
      element.hidden = !content;
    };
    text("origin", data.origin);
    text("command", data.command);
    text("warning", data.warning);
    document.getElementById("figures").append(...data.figures.map(hotadd.figure));
    const draw = () => hotadd.parts.forEach((part) => part(data, hotadd.colours()));
    draw();
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
    addEventListener("resize", () => hotadd.charts.forEach((chart) => chart.resize()));
    document.documentElement.dataset.ready = "yes";
  },

  figure({ name, value, note }) {
    const element = hotadd.element("div", "figure");
    element.append(hotadd.element("span", "name", name), hotadd.element("b", "", value), hotadd.element("span", "", note));
    return element;
  },

  element(tag, className, content = "") {
    const element = document.createElement(tag);
    element.className = className;
    element.textContent = content;
    return element;
  },

  /** The colours of the style sheet, by name. */
  colours() {
    const style = getComputedStyle(document.documentElement);
    return new Proxy({}, { get: (_, name) => style.getPropertyValue(`--${name}`).trim() });
  },

  /** The chart in an element, made when it is first asked for. */
  chart(id) {
    const element = document.getElementById(id);
    const known = echarts.getInstanceByDom(element);
    if (known) return known;
    const chart = echarts.init(element, null, { renderer: "canvas" });
    hotadd.charts.push(chart);
    return chart;
  },

  axis(colours) {
    return {
      axisLabel: { color: colours.dim, fontSize: 11 },
      nameTextStyle: { color: colours.dim, fontSize: 11 },
      axisLine: { lineStyle: { color: colours.line } },
      splitLine: { lineStyle: { color: colours.grid } },
      axisTick: { show: false },
    };
  },

  tooltip(colours) {
    return {
      backgroundColor: colours.card,
      borderColor: colours.line,
      textStyle: { color: colours.text, fontSize: 12 },
      confine: true,
    };
  },

  /** Nanoseconds for people. */
  duration(ns) {
    if (ns < 10000) return `${Math.round(ns)} ns`;
    if (ns < 1e6) return `${(ns / 1e3).toFixed(ns < 1e5 ? 1 : 0)} µs`;
    return `${(ns / 1e6).toFixed(2)} ms`;
  },

  bytes(value) {
    return value < 1 << 20 ? `${Math.round(value / 1024)} KiB` : `${(value / (1 << 20)).toFixed(1)} MiB`;
  },
};
