// Lines over time as SVG, and small lines in tiles. No library; redrawn once a second.
const Plot = (() => {
  const NS = "http://www.w3.org/2000/svg";
  const element = (name, attributes, content) => {
    const node = document.createElementNS(NS, name);
    for (const key in attributes) node.setAttribute(key, attributes[key]);
    if (content !== undefined) node.textContent = content;
    return node;
  };
  // The smallest of 1, 2, 5 times a power of ten that is no less than `n`.
  const nice = (n) => {
    if (!(n > 0)) return 1;
    const power = 10 ** Math.floor(Math.log10(n));
    return [1, 2, 5, 10].map((step) => step * power).find((step) => step >= n * 0.999999);
  };
  const path = (values, x, y) => {
    let d = "", isDown = false;
    values.forEach((value, i) => {
      if (value === null) { isDown = false; return; }
      d += `${isDown ? "L" : "M"}${x(i).toFixed(1)} ${y(value).toFixed(1)}`;
      isDown = true;
    });
    return d;
  };

  // series: [{ name, color, values }] of one length, newest last; null: nothing to show. `log`:
  // each grid line is ten times the one below.
  const draw = (svg, series, { size, format, legend, floor = 1, log = false, empty = "" }) => {
    const width = svg.clientWidth || 600, height = svg.clientHeight || 230;
    const left = 52, right = 8, top = 8, bottom = 22;
    const all = series.flatMap((s) => s.values.filter((v) => v !== null));
    const highest = Math.max(floor, ...all);
    const step = nice(highest / 4), max = log ? 10 ** Math.ceil(Math.log10(highest)) : Math.ceil(highest / step) * step;
    const min = log ? Math.min(max / 100, 10 ** Math.floor(Math.log10(Math.max(1, Math.min(...all, floor))))) : 0;
    const share = log ? (v) => Math.max(0, Math.log(v / min) / Math.log(max / min)) : (v) => v / max;
    const x = (i) => left + (width - left - right) * (i / (size - 1));
    const y = (v) => top + (height - top - bottom) * (1 - share(v));
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.replaceChildren();
    for (let v = min; v <= max * 1.001; v = log ? v * 10 : v + step) {
      svg.append(element("line", { class: "grid", x1: left, x2: width - right, y1: y(v), y2: y(v) }));
      svg.append(element("text", { x: left - 8, y: y(v) + 4, "text-anchor": "end" }, format(v)));
    }
    const between = size > 61 ? 60 : 15;
    for (let second = 0; second < size; second += between) {
      const label = second === 0 ? "now" : between === 60 ? `−${second / 60} min` : `−${second} s`;
      svg.append(element("text", { x: x(size - 1 - second), y: height - 5, "text-anchor": second === 0 ? "end" : "middle" }, label));
    }
    if (!all.length && empty) svg.append(element("text", { class: "nothing", x: (left + width) / 2, y: height / 2 }, empty));
    const offset = (s) => size - s.values.length;
    for (const s of series) {
      const line = path(s.values, (i) => x(i + offset(s)), y);
      svg.append(element("path", { d: line, fill: "none", stroke: `var(${s.color})`, "stroke-width": 2, "stroke-linejoin": "round", "stroke-linecap": "round" }));
    }
    const shown = svg.hovered === undefined ? size - 1 : Math.max(0, Math.min(size - 1, Math.round((svg.hovered - left) / (width - left - right) * (size - 1))));
    if (svg.hovered !== undefined) svg.append(element("line", { class: "cross", x1: x(shown), x2: x(shown), y1: top, y2: height - bottom }));
    legend.replaceChildren(...series.map((s) => {
      const item = document.createElement("li"), value = document.createElement("b");
      const at = s.values[shown - offset(s)];
      item.style.setProperty("--color", `var(${s.color})`);
      value.textContent = at === undefined || at === null ? "–" : format(at);
      item.append(`${s.name} `, value);
      return item;
    }));
    if (!svg.isWatched) {
      svg.isWatched = true;
      svg.addEventListener("pointermove", (event) => { svg.hovered = event.offsetX; svg.redraw(); });
      svg.addEventListener("pointerleave", () => { svg.hovered = undefined; svg.redraw(); });
    }
    svg.redraw = () => draw(svg, series, { size, format, legend, floor, log, empty });
  };

  const spark = (svg, values, color) => {
    const width = 160, height = 28, max = Math.max(1e-9, ...values) * 1.3;
    const x = (i) => width * i / Math.max(1, values.length - 1), y = (v) => height - 1 - (height - 2) * (v / max);
    const line = path(values, x, y);
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.setAttribute("preserveAspectRatio", "none");
    svg.setAttribute("aria-hidden", "true");
    svg.replaceChildren();
    if (values.length < 2) return;
    svg.append(element("path", { d: `${line}L${width} ${height}L0 ${height}Z`, fill: `var(${color})`, opacity: .12 }));
    svg.append(element("path", { d: line, fill: "none", stroke: `var(${color})`, "stroke-width": 1.5, "vector-effect": "non-scaling-stroke" }));
  };
  return { draw, spark, nice };
})();
