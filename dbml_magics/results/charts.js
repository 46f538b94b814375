// Makes the pictures of a board charts that answer: it takes the place of each picture, whose caption stays.
// Every statement ends in a semicolon and every remark has a line of its own: the lines are joined.
((script, data) => {
const above = script && script.previousElementSibling;
if (!above) return;
// VS Code runs the scripts of an output one after another at its end, and not where they stand.
const drawn = (each) => each.matches(".dbml-board") && each.querySelector("figure > img");
const place = drawn(above) ? above : [...script.parentElement.querySelectorAll(".dbml-board")].find(drawn);
if (!place) return;
const HEIGHT = 152;
const TOP = 8;
const BELOW = 32;
const WEIGHTS = [0, 0.6, 0.9, 0.97];
const boards = window.dbmlBoards = window.dbmlBoards || new Map();

const svg = (parent, name, attributes, text) => {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const key in attributes) made.setAttribute(key, attributes[key]);
  if (text !== undefined) made.textContent = text;
  if (parent) parent.append(made);
  return made;
};
const element = (name, style, text) => {
  const made = document.createElement(name);
  made.style.cssText = style;
  if (text !== undefined) made.textContent = text;
  return made;
};
const said = (value) => {
  if (typeof value !== "number") return value;
  const size = Math.abs(value);
  if (size !== 0 && (size >= 1e9 || size < 1e-4)) return value.toPrecision(4).replace(/\.?0+(e|$)/, "$1").replace("e+", "e");
  return value.toLocaleString("en-US", {maximumSignificantDigits: Math.max(4, Math.ceil(Math.log10(size + 1)))});
};
const label = (value, width) => {
  if (value === 0) return "0";
  if (Math.abs(value) >= 1e6 || width < 1e-5) return String(Number(value.toPrecision(3)).toExponential()).replace("e+", "e");
  const figures = Math.max(0, -Math.floor(Math.log10(width) + 1e-9));
  return value.toLocaleString("en-US", {minimumFractionDigits: figures, maximumFractionDigits: figures});
};
const rounds = (low, high, most, whole) => {
  const rough = (high / 2 - low / 2) / most * 2;
  if (!(rough > 0) || !isFinite(rough)) return [[low, said(low)]];
  const size = Math.pow(10, Math.floor(Math.log10(rough)));
  let width = [1, 2, 5, 10].map((factor) => size * factor).find((each) => each >= rough) || rough;
  if (whole) width = Math.max(1, width);
  const found = [];
  for (let n = Math.ceil(low / width); n * width <= high && found.length < 30; n += 1) found.push([n * width, label(n * width, width)]);
  return found;
};
const decades = (low, high) => {
  const found = [];
  const narrow = Math.log10(high / low) < 2;
  const stride = Math.max(1, Math.ceil(Math.log10(high / low) / 6));
  for (let n = Math.floor(Math.log10(low)); n <= Math.ceil(Math.log10(high)); n += stride) {
    for (const factor of narrow ? [1, 2, 5] : [1]) {
      const value = factor * Math.pow(10, n);
      if (value >= low * 0.999 && value <= high * 1.001) found.push([value, label(value, value)]);
    }
  }
  return found.length > 1 ? found : rounds(low, high, 4);
};
const smoothed = (values, weight) => {
  if (!weight) return values;
  let sum = 0;
  let scale = 1;
  return values.map((value) => {
    if (typeof value !== "number") return value;
    sum = sum * weight + value * (1 - weight);
    scale *= weight;
    return sum / (1 - scale);
  });
};
const nearest = (values, wanted) => {
  let best = -1;
  values.forEach((value, n) => { if (best < 0 || Math.abs(value - wanted) < Math.abs(values[best] - wanted)) best = n; });
  return best;
};
const paper = (from) => {
  for (let node = from; node; node = node.parentElement) {
    const colour = getComputedStyle(node).backgroundColor;
    if (colour && !/^(transparent|rgba\(.*, 0\))$/.test(colour)) return colour;
  }
  return "Canvas";
};

// One chart: its lines as the board's settings have them.
class Chart {
  constructor(board, title) {
    this.board = board;
    this.title = title;
    this.rise = null;
    this.holder = element("div", "position:relative;width:100%;touch-action:pan-y");
    this.holder.className = "dbml-chart";
    this.root = svg(null, "svg", {height: HEIGHT, width: "100%", tabindex: 0, role: "img", "font-size": 11, "font-family": "sans-serif"});
    this.root.style.cssText = "display:block;cursor:crosshair;user-select:none;overflow:hidden";
    this.plot = svg(this.root, "g", {});
    this.over = svg(this.root, "g", {"pointer-events": "none"});
    this.tip = element("div", "position:absolute;top:4px;z-index:2;pointer-events:none;padding:3px 8px;border:1px solid;border-radius:4px;font-size:12px;line-height:1.4;max-width:75%");
    this.tip.className = "dbml-tip";
    this.tip.setAttribute("role", "status");
    this.tip.hidden = true;
    this.holder.append(this.root, this.tip);
    this.root.addEventListener("pointerdown", (event) => this.grab(event));
    this.root.addEventListener("pointermove", (event) => { if (!board.held) this.point(event); });
    this.root.addEventListener("pointerleave", () => { if (!board.held) board.hover(null); });
    this.root.addEventListener("blur", () => { board.focus = null; board.hover(null); });
    this.root.addEventListener("focus", () => { board.focus = this.root; });
    this.root.addEventListener("dblclick", () => board.reset());
    this.root.addEventListener("wheel", (event) => this.wheel(event), {passive: false});
    this.root.addEventListener("keydown", (event) => this.key(event));
    new ResizeObserver(() => this.draw()).observe(this.holder);
  }

  take(chart, spoken) {
    this.data = chart;
    this.root.setAttribute("aria-label", spoken);
    this.draw();
  }

  lines() {
    const board = this.board;
    return this.data.lines.map((line) => ({
      xs: board.time && line.t.length ? line.t : line.x,
      raw: line.y,
      ys: this.data.names ? line.y : smoothed(line.y, WEIGHTS[board.smooth]),
    }));
  }

  draw() {
    const width = this.holder.clientWidth;
    if (!width || !this.data) return;
    const board = this.board;
    const drawn = this.drawn = this.lines();
    const points = drawn.flatMap((line) => line.xs.map((x, n) => [x, line.raw[n]]));
    const shown = points.filter(([x, y]) => typeof y === "number" && (!board.zoom || (x >= board.zoom[0] && x <= board.zoom[1])));
    const all = points.map(([x]) => x);
    const [left, right] = board.zoom && !this.data.names ? board.zoom : [Math.min(...all), Math.max(...all)];
    let heights = shown.map(([, y]) => y);
    const log = board.log && heights.some((y) => y > 0);
    if (log) heights = heights.filter((y) => y > 0);
    let [low, high] = this.rise || (heights.length ? [Math.min(...heights), Math.max(...heights)] : [0, 1]);
    if (log && low <= 0) low = Math.min(...heights);
    const labels = log ? decades(low, high) : rounds(low, high, 6);
    const edge = 14 + 6.4 * Math.max(1, ...labels.map(([, text]) => text.length));
    const end = width - 10;
    const bottom = HEIGHT - BELOW;
    const inset = this.data.names ? 8 : 0;
    const part = (value, from, to) => to / 2 - from / 2 ? (value / 2 - from / 2) / (to / 2 - from / 2) : 0.5;
    this.x = (value) => edge + inset + part(value, left, right) * (end - edge - 2 * inset);
    this.back = (pixel) => left + (pixel - edge - inset) / (end - edge - 2 * inset) * (right - left);
    const lift = log ? (value) => part(Math.log(value), Math.log(low), Math.log(high)) : (value) => part(value, low, high);
    this.y = (value) => bottom - 6 - lift(value) * (bottom - TOP - 12);
    this.up = (pixel) => {
      const share = (bottom - 6 - pixel) / (bottom - TOP - 12);
      return log ? Math.exp(Math.log(low) + share * (Math.log(high) - Math.log(low))) : low + share * (high - low);
    };
    this.box = {edge, end, bottom};
    this.plot.replaceChildren();
    this.frame(labels, left, right, width);
    const clip = `dbml-clip-${board.number}-${this.number}`;
    svg(svg(this.plot, "clipPath", {id: clip}), "rect", {x: edge - 5, y: TOP - 4, width: Math.max(0, end - edge + 10), height: bottom - TOP + 8});
    const inner = svg(this.plot, "g", {"clip-path": `url(#${clip})`});
    drawn.forEach((line, n) => this.line(inner, line, n, log));
    this.hint();
  }

  frame(labels, left, right, width) {
    const {edge, end, bottom} = this.box;
    const rule = (d) => svg(this.plot, "path", {d, stroke: "currentColor", "stroke-opacity": 0.16});
    const words = (x, y, text, anchor) => svg(this.plot, "text", {x, y, "text-anchor": anchor, fill: "currentColor", "fill-opacity": 0.85}, text);
    for (const [value, text] of labels) {
      rule(`M${edge},${this.y(value)}H${end}`);
      words(edge - 6, this.y(value) + 4, text, "end");
    }
    const axis = this.board.time ? "seconds" : this.data.axis;
    const named = (this.data.words || []).map((word, n) => [n, word]);
    const marks = named.length ? (named.length > 5 ? [named[0], named[named.length - 1]] : named)
      : rounds(left, right, Math.max(2, Math.round(width / 70)), axis === "step" || axis === "point");
    for (const [value, text] of marks) {
      const x = this.x(value);
      rule(`M${x},${TOP}V${bottom}`);
      const cut = x + text.length * 3.2 > width;
      words(cut ? width : x, bottom + 14, text, cut ? "end" : "middle");
    }
    words((edge + end) / 2, bottom + 28, axis, "middle");
    svg(this.plot, "path", {d: `M${edge},${TOP}V${bottom}H${end}`, fill: "none", stroke: "currentColor", "stroke-opacity": 0.5});
  }

  line(parent, line, n, log) {
    const lit = this.board.lit;
    const dim = lit !== null && lit !== n;
    const colour = data.colours[n % data.colours.length];
    const group = svg(parent, "g", {opacity: dim ? 0.12 : 1, class: "dbml-line"});
    const usable = (y) => typeof y === "number" && (!log || y > 0);
    if (this.data.names) {
      line.xs.forEach((x, k) => usable(line.ys[k]) && svg(group, "circle", {cx: this.x(x), cy: this.y(line.ys[k]), r: 4.5, fill: colour, "fill-opacity": 0.6, stroke: colour}));
      return;
    }
    const path = (ys) => {
      let d = "";
      let pen = false;
      ys.forEach((y, k) => {
        if (usable(y)) {
          d += `${pen ? "L" : "M"}${this.x(line.xs[k]).toFixed(1)},${this.y(y).toFixed(1)}${pen ? "" : "h0"}`;
          pen = true;
        } else pen = false;
      });
      return d;
    };
    const stroke = {fill: "none", stroke: colour, "stroke-width": lit === n ? 2.8 : 1.8, "stroke-linecap": "round", "stroke-linejoin": "round"};
    if (line.ys !== line.raw) svg(group, "path", {...stroke, d: path(line.raw), "stroke-width": 1, "stroke-opacity": 0.3});
    svg(group, "path", {...stroke, d: path(line.ys), "stroke-dasharray": data.dashes[n % data.dashes.length]});
    const seen = line.xs.map((x, k) => k).filter((k) => usable(line.ys[k]));
    const marked = this.data.lines.length > 1 ? [0, 1, 2, 3, 4, 5].map((k) => seen[Math.min(seen.length - 1, Math.round((k + n / 7 % 1) / 5 * (seen.length - 1)))]) : seen.slice(-1);
    for (const k of new Set(marked)) if (k !== undefined) this.mark(group, n, line.xs[k], line.ys[k], colour);
    let last = -Infinity;
    line.raw.forEach((y, k) => {
      const x = this.x(line.xs[k]);
      if (typeof y === "number" || x - last < 5) return;
      last = x;
      if (y === "NaN") svg(group, "path", {d: `M${x - 3},${this.box.bottom - 5}l6,6m0,-6l-6,6`, stroke: colour, "stroke-width": 1.5});
      else svg(group, "path", {d: data.markers[y === "inf" ? 2 : 4], fill: colour, transform: `translate(${x},${y === "inf" ? TOP + 2 : this.box.bottom - 2})`});
    });
  }

  mark(parent, n, x, y, colour) {
    svg(parent, "path", {d: data.markers[n % data.markers.length], fill: colour, transform: `translate(${this.x(x)},${this.y(y)})`});
  }

  // What the pointer, or a key, rests on: a rule in every chart, the values in the one that it is in.
  hint() {
    const at = this.board.at;
    this.over.replaceChildren();
    this.tip.hidden = true;
    if (at === null || !this.drawn) return;
    if (this.data.names) return this.board.over === this ? this.name() : undefined;
    const x = this.x(at);
    const {edge, end, bottom} = this.box;
    if (x < edge - 1 || x > end + 1) return;
    svg(this.over, "path", {d: `M${x},${TOP}V${bottom}`, stroke: "currentColor", "stroke-opacity": 0.6, "stroke-dasharray": "3 3"});
    const rows = [];
    this.drawn.forEach((line, n) => {
      const k = nearest(line.xs, at);
      if (k < 0) return;
      const value = line.raw[k];
      const colour = data.colours[n % data.colours.length];
      if (typeof value === "number" && isFinite(this.y(line.ys[k]))) svg(this.over, "circle", {cx: this.x(line.xs[k]), cy: this.y(line.ys[k]), r: 4, fill: colour, stroke: "currentColor"});
      let text = said(value);
      if (line.ys !== line.raw) text += ` (smoothed ${said(line.ys[k])})`;
      if (line.xs[k] !== at) text += ` at ${said(line.xs[k])}`;
      rows.push([colour, this.data.lines.length > 1 ? `${n + 1} ${this.data.lines[n].label}` : this.title, text]);
    });
    if (this.board.over === this) this.tell(`${this.board.time ? "seconds" : this.data.axis} ${said(at)}`, rows, x);
    else if (rows.length === 1) {
      const shown = svg(this.over, "text", {x: x > (edge + end) / 2 ? x - 7 : x + 7, y: TOP + 10, "text-anchor": x > (edge + end) / 2 ? "end" : "start", fill: "currentColor", "font-weight": "bold", stroke: paper(this.holder), "stroke-width": 3, "paint-order": "stroke"}, rows[0][2]);
      shown.setAttribute("class", "dbml-value");
    }
  }

  name() {
    const line = this.drawn[0];
    const k = this.board.dot;
    if (k === undefined) return;
    svg(this.over, "circle", {cx: this.x(line.xs[k]), cy: this.y(line.ys[k]), r: 6, fill: "none", stroke: "currentColor", "stroke-width": 2});
    this.tell(this.data.names[k], [[data.colours[0], this.title, said(line.ys[k])]], this.x(line.xs[k]));
  }

  tell(head, rows, x) {
    this.tip.replaceChildren(element("div", "font-weight:bold", head));
    for (const [colour, name, text] of rows) {
      const row = element("div", "overflow-wrap:anywhere");
      row.append(element("span", `display:inline-block;width:10px;height:10px;border-radius:5px;margin-right:6px;background:${colour}`), element("span", "", `${name} `), element("b", "", text));
      this.tip.append(row);
    }
    this.tip.style.background = paper(this.holder);
    const right = x > this.holder.clientWidth / 2;
    this.tip.style.left = right ? "" : `${x + 12}px`;
    this.tip.style.right = right ? `${this.holder.clientWidth - x + 12}px` : "";
    this.tip.hidden = false;
  }

  local(event) {
    const box = this.root.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  }

  point(event) {
    const [px, py] = this.local(event);
    const {edge, end} = this.box || {};
    if (edge === undefined || px < edge - 8 || px > end + 8) return this.board.hover(null);
    if (this.data.names) {
      const line = this.drawn[0];
      const far = line.xs.map((x, k) => Math.hypot(this.x(x) - px, this.y(line.ys[k]) - py));
      const k = nearest(far, 0);
      this.board.dot = k;
      return this.board.hover(far[k] < 40 ? line.xs[k] : null, this);
    }
    const all = this.drawn.flatMap((line) => line.xs);
    return this.board.hover(all[nearest(all, this.back(px))], this);
  }

  grab(event) {
    if (event.button !== 0 || this.data.names) return;
    event.preventDefault();
    const board = this.board;
    const from = this.local(event);
    const begun = board.zoom || [this.back(this.box.edge), this.back(this.box.end)];
    const scale = (begun[1] - begun[0]) / (this.box.end - this.box.edge);
    let to = from;
    board.held = true;
    const move = (moved) => {
      to = this.local(moved);
      if (event.shiftKey) {
        const by = (from[0] - to[0]) * scale;
        board.zoomed([begun[0] + by, begun[1] + by]);
        return;
      }
      this.over.replaceChildren();
      const tall = Math.abs(to[1] - from[1]) > 25;
      svg(this.over, "rect", {x: Math.min(from[0], to[0]), width: Math.abs(to[0] - from[0]), y: tall ? Math.min(from[1], to[1]) : TOP, height: tall ? Math.abs(to[1] - from[1]) : this.box.bottom - TOP, fill: "currentColor", "fill-opacity": 0.15, stroke: "currentColor", "stroke-opacity": 0.5});
    };
    const end = () => {
      removeEventListener("pointermove", move);
      removeEventListener("pointerup", end);
      removeEventListener("pointercancel", end);
      board.held = false;
      if (event.shiftKey || Math.abs(to[0] - from[0]) < 6) return this.hint();
      if (Math.abs(to[1] - from[1]) > 25) this.rise = [this.up(Math.max(from[1], to[1])), this.up(Math.min(from[1], to[1]))];
      board.zoomed([this.back(Math.min(from[0], to[0])), this.back(Math.max(from[0], to[0]))]);
    };
    addEventListener("pointermove", move);
    addEventListener("pointerup", end);
    addEventListener("pointercancel", end);
  }

  // Around a place: a plain turn of the wheel belongs to the page.
  around(x, factor) {
    const [low, high] = this.board.zoom || [this.back(this.box.edge), this.back(this.box.end)];
    this.board.zoomed([x - (x - low) * factor, x + (high - x) * factor]);
  }

  wheel(event) {
    if (!(event.ctrlKey || event.metaKey) || this.data.names) return;
    event.preventDefault();
    this.around(this.back(this.local(event)[0]), event.deltaY > 0 ? 1.25 : 0.8);
  }

  key(event) {
    const board = this.board;
    if (!this.drawn) return;
    const all = [...new Set(this.drawn.flatMap((line) => line.xs))].sort((a, b) => a - b);
    const inside = all.filter((x) => !board.zoom || (x >= board.zoom[0] && x <= board.zoom[1]));
    const now = board.at === null ? -1 : inside.indexOf(board.at);
    if (event.key === "ArrowRight" || event.key === "ArrowLeft") {
      const next = event.key === "ArrowRight" ? Math.min(inside.length - 1, now + 1) : now < 0 ? inside.length - 1 : Math.max(0, now - 1);
      if (this.data.names) board.dot = this.drawn[0].xs.indexOf(inside[next]);
      board.hover(inside[next], this);
    } else if (event.key === "+" && !this.data.names) this.around(board.at === null ? (this.back(this.box.edge) + this.back(this.box.end)) / 2 : board.at, 0.7);
    else if (event.key === "-" && !this.data.names) this.around(board.at === null ? (this.back(this.box.edge) + this.back(this.box.end)) / 2 : board.at, 1.4);
    else if (event.key === "0" || event.key === "Escape") board.reset();
    else return;
    event.preventDefault();
    event.stopPropagation();
  }
}

// The charts that share their settings; a view that goes on keeps them from one update to the next.
class Board {
  constructor(number) {
    this.number = number;
    this.charts = new Map();
    this.zoom = this.at = this.over = this.lit = this.pinned = this.focus = null;
    this.held = this.log = this.time = false;
    this.smooth = 0;
    this.bar = element("div", "display:flex;flex-wrap:wrap;gap:4px 8px;align-items:center;margin:4px 0;font-size:12px");
    this.bar.className = "dbml-bar";
    this.logs = this.button("log axis", "Show the values on a logarithmic axis", () => { this.log = !this.log; this.rises(); });
    this.times = this.button("time on x", "Show seconds since the run began instead of steps", () => { this.time = !this.time; this.zoom = null; this.at = null; });
    this.smooths = this.button("smoothing off", "Smooth the curves: none, 0.6, 0.9 or 0.97", () => { this.smooth = (this.smooth + 1) % WEIGHTS.length; });
    this.resets = this.button("reset zoom", "Show all of the curves again", () => this.reset());
    this.help = element("span", "opacity:0.8", "drag to zoom, Shift and drag to pan, double-click to reset");
    this.bar.append(this.help);
  }

  button(text, about, pressed) {
    const made = element("button", "font:inherit;color:inherit;background:none;border:1px solid;border-radius:4px;padding:1px 8px;cursor:pointer", text);
    made.type = "button";
    made.title = about;
    // At once: an update that comes before the button is let go would lose the click.
    const act = () => { pressed(); this.draw(); };
    made.addEventListener("pointerdown", (event) => { if (event.button === 0) act(); });
    made.addEventListener("click", (event) => { if (event.detail === 0) act(); });
    made.addEventListener("focus", () => { this.focus = made; });
    made.addEventListener("blur", () => { this.focus = null; });
    this.bar.append(made);
    return made;
  }

  rises() { for (const chart of this.charts.values()) chart.rise = null; }
  reset() { this.zoom = null; this.rises(); this.draw(); }
  zoomed(zoom) { if (zoom[1] > zoom[0]) { this.zoom = zoom; this.draw(); } }

  hover(at, over) {
    this.at = at === undefined ? null : at;
    this.over = over || null;
    for (const chart of this.charts.values()) chart.hint();
  }

  draw() {
    const press = (button, on) => {
      button.setAttribute("aria-pressed", on);
      button.style.boxShadow = on ? "inset 0 0 0 1px currentColor" : "";
      button.style.fontWeight = on ? "bold" : "";
    };
    press(this.logs, this.log);
    press(this.times, this.time);
    press(this.smooths, this.smooth > 0);
    this.smooths.textContent = this.smooth ? `smoothing ${WEIGHTS[this.smooth]}` : "smoothing off";
    this.resets.hidden = !this.zoom && ![...this.charts.values()].some((chart) => chart.rise);
    for (const chart of this.charts.values()) chart.draw();
  }

  legend(list) {
    if (!list) return;
    [...list.children].forEach((item, n) => {
      const button = element("button", "font:inherit;color:inherit;background:none;border:1px solid transparent;border-radius:4px;padding:0 4px;cursor:pointer");
      button.type = "button";
      button.title = "Highlight this line; a click keeps it so";
      button.append(...item.childNodes);
      item.replaceChildren(button);
      const show = () => {
        button.setAttribute("aria-pressed", this.pinned === n);
        button.style.borderColor = this.pinned === n ? "currentColor" : "transparent";
      };
      const light = (line) => { this.lit = line === null ? this.pinned : line; for (const chart of this.charts.values()) chart.draw(); };
      button.addEventListener("pointerenter", () => light(n));
      button.addEventListener("pointerleave", () => light(null));
      button.addEventListener("click", () => {
        this.pinned = this.pinned === n ? null : n;
        light(null);
        for (const each of list.children) each.firstChild.dispatchEvent(new Event("pinned"));
      });
      button.addEventListener("pinned", show);
      show();
    });
  }

  // Take the place of a board's pictures, with what an update draws: not what the first script was handed.
  attach(place, drawing) {
    this.place = place;
    const focus = this.focus;
    const figures = [...place.querySelectorAll("figure")];
    if (figures.length) {
      const grid = figures[0].parentElement.style;
      grid.display = "grid";
      grid.gridTemplateColumns = "repeat(auto-fit, minmax(min(190px, 100%), 1fr))";
      for (const figure of figures) figure.style.maxWidth = figures.length > 1 ? "520px" : "640px";
    }
    const kept = new Map();
    drawing.forEach((chart, n) => {
      const picture = figures[n] && figures[n].querySelector(":scope > img");
      if (!picture) return;
      const drawn = this.charts.get(chart.title) || new Chart(this, chart.title);
      drawn.number = n;
      kept.set(chart.title, drawn);
      const spoken = picture.alt;
      picture.replaceWith(drawn.holder);
      drawn.take(chart, spoken);
    });
    this.charts = kept;
    const lines = drawing.filter((chart) => !chart.names);
    if (lines.length) place.prepend(this.bar);
    this.times.hidden = !lines.some((chart) => chart.lines.some((line) => line.t.length));
    this.legend(place.querySelector("ul[aria-label=legend]"));
    this.draw();
    if (focus && document.activeElement === document.body) focus.focus({preventScroll: true});
  }
}

const known = data.key && boards.get(data.key);
const board = known && !known.place.isConnected ? known : new Board(boards.number = (boards.number || 0) + 1);
if (data.key) boards.set(data.key, board);
board.attach(place, data.charts);
})
