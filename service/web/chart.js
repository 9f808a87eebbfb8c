// Accuracy against latency. uPlot does scales, axes and resolution; what is drawn between the axes is drawn here.
//
// Two layers: the landscape (fronts, known networks), redrawn when data or view change, and above it the answer
// (budget, chosen network, what the pointer is on), redrawn on every move.

import uPlot from "./vendor/uplot/uPlot.esm.js";
import { amount, ms, withUnit } from "./format.js";

const GRAB_PX = 14;
const SNAP_PX = 26;
const MIN_ZOOM_PX = 8;
const MOST_ZOOM = 400;
const DOUBLE_CLICK_MS = 500;

/**
 * @param root    an element with a height
 * @param onBudget (ms) when the budget is dragged or a place is chosen
 * @param onView  () when the view or the size changed
 */
export function createChart(root, { onBudget, onView }) {
  let data = { fronts: [], isLog: false, quality: { sign: 1 } };
  let answer = { budget_ms: null, predicted: null, isStale: false };
  let whole = { x0: 1, x1: 10, y0: 0, y1: 100 };
  let view = { ...whole };
  let plot = null;
  let isReady = false;
  let colours = readColours(root);
  let hovered = null;
  let scheduled = false;

  const overlay = document.createElement("canvas");
  overlay.className = "overlay";
  const lasso = document.createElement("div");
  lasso.className = "lasso";
  lasso.hidden = true;
  const tip = document.createElement("div");
  tip.className = "tip";
  tip.hidden = true;
  tip.setAttribute("aria-hidden", "true");

  new ResizeObserver(() => {
    if (!isReady || !root.clientWidth) return;
    plot.setSize(size());
    settle();
  }).observe(root);

  const size = () => ({ width: root.clientWidth, height: root.clientHeight });
  const font = () => `${colours.fontSize} ${colours.fontFamily}`;

  function build() {
    plot?.destroy();
    isReady = false;
    const axis = (extra) => ({
      stroke: () => colours.soft,
      font: font(),
      grid: { stroke: () => colours.hair, width: 1 },
      ticks: { show: false },
      border: { show: false },
      ...extra,
    });
    plot = new uPlot(
      {
        ...size(),
        padding: [18, 14, 0, 0],
        legend: { show: false },
        cursor: { show: false },
        scales: {
          x: { time: false, distr: data.isLog ? 3 : 1, range: () => [view.x0, view.x1] },
          y: { range: () => [view.y0, view.y1] },
        },
        axes: [
          axis({ size: 28, gap: 8, space: 64, values: (_, ticks) => ticks.map(tick) }),
          axis({ size: 40, gap: 8, space: 44, values: (_, ticks) => ticks.map((value) => tick(data.quality.sign * value)) }),
        ],
        series: [{}, { paths: () => null, points: { show: false } }],
        hooks: { draw: [drawLandscape], ready: [ready] },
      },
      [
        [view.x0, view.x1],
        [view.y0, view.y1],
      ],
      root,
    );
  }

  /** uPlot lays itself out a moment after it is made. */
  function ready() {
    isReady = true;
    plot.over.append(overlay, lasso, tip);
    listen(plot.over);
    settle();
  }

  function settle() {
    overlay.width = Math.round(plot.over.clientWidth * devicePixelRatio);
    overlay.height = Math.round(plot.over.clientHeight * devicePixelRatio);
    schedule();
    onView();
  }

  // -- what there is to see -------------------------------------------------------------------------------------------

  function fit() {
    const xs = [];
    const ys = [];
    for (const front of data.fronts) {
      const [first, last] = [front.points[0], front.points.at(-1)];
      xs.push(first.latency_ms, first.bound_ms, last.latency_ms, last.bound_ms);
      ys.push(first.low ?? first.height, last.high ?? last.height);
    }
    for (const place of data.references ?? []) {
      xs.push(place.latency_ms);
      ys.push(place.height);
    }
    const cloud = data.cloud ?? { latency_ms: [], heights: [] };
    const right = Math.max(...xs);
    cloud.heights.forEach((y, i) => cloud.latency_ms[i] <= right && ys.push(y));
    const [x0, x1] = [Math.min(...xs), right];
    const [y0, y1] = [ys.reduce((a, b) => Math.min(a, b)), ys.reduce((a, b) => Math.max(a, b))];
    const air = (y1 - y0) * 0.06 || 0.02;
    const margin = data.isLog ? (x1 / x0) ** 0.03 : Math.max((x1 - x0) * 0.03, x0 * 0.005);
    whole = {
      x0: data.isLog ? x0 / margin : x0 - margin,
      x1: data.isLog ? x1 * margin : x1 + margin,
      y0: y0 - air,
      y1: y1 + air,
    };
  }

  const toX = (value) => plot.valToPos(value, "x");
  const toY = (value) => plot.valToPos(value, "y");
  const fromX = (px) => plot.posToVal(px, "x");
  const fromY = (px) => plot.posToVal(px, "y");
  const isWhole = () => Object.keys(whole).every((side) => whole[side] === view[side]);

  function look(next) {
    view = next;
    plot.batch(() => {
      plot.setScale("x", { min: view.x0, max: view.x1 });
      plot.setScale("y", { min: view.y0, max: view.y1 });
    });
    hover(null);
    schedule();
    onView();
  }

  /** Zooms around a place given in pixels; a factor above 1 comes closer. */
  function zoom(factor, px = plot.over.clientWidth / 2, py = plot.over.clientHeight / 2) {
    const warp = data.isLog ? Math.log : (x) => x;
    const unwarp = data.isLog ? Math.exp : (x) => x;
    const [cx, cy] = [warp(fromX(px)), fromY(py)];
    const around = (centre, low, high, lowest, highest) => {
      const wanted = Math.min((high - low) / factor, highest - lowest);
      const span = Math.max(wanted, (highest - lowest) / MOST_ZOOM);
      const start = centre - ((centre - low) / (high - low)) * span;
      const kept = Math.min(Math.max(start, lowest), highest - span);
      return [kept, kept + span];
    };
    const [x0, x1] = around(cx, warp(view.x0), warp(view.x1), warp(whole.x0), warp(whole.x1));
    const [y0, y1] = around(cy, view.y0, view.y1, whole.y0, whole.y1);
    const isOut = x1 - x0 >= (warp(whole.x1) - warp(whole.x0)) * 0.999 && y1 - y0 >= (whole.y1 - whole.y0) * 0.999;
    look(isOut ? { ...whole } : { x0: unwarp(x0), x1: unwarp(x1), y0, y1 });
  }

  // -- the landscape --------------------------------------------------------------------------------------------------

  function drawLandscape(u) {
    const { ctx } = u;
    const ratio = devicePixelRatio;
    ctx.save();
    ctx.beginPath();
    ctx.rect(u.bbox.left, u.bbox.top, u.bbox.width, u.bbox.height);
    ctx.clip();
    // From here on in CSS pixels of the plotting area, like the overlay.
    ctx.translate(u.bbox.left, u.bbox.top);
    ctx.scale(ratio, ratio);
    drawCloud(ctx);
    const [main, other] = data.fronts;
    if (other) {
      ctx.setLineDash([5, 4]);
      stroke(ctx, staircase(other.points, "bound_ms"), colours.soft, 1.5);
      ctx.setLineDash([]);
    }
    if (main) drawFront(ctx, main);
    for (const place of data.references ?? []) drawReference(ctx, place);
    ctx.restore();
  }

  function drawCloud(ctx) {
    const { latency_ms: xs = [], heights: ys = [] } = data.cloud ?? {};
    const radius = Math.min(4, 1.7 * Math.sqrt(zoomed()));
    ctx.fillStyle = colours.cloud;
    for (let i = 0; i < xs.length; i++) {
      if (xs[i] < view.x0 || xs[i] > view.x1 || ys[i] < view.y0 || ys[i] > view.y1) continue;
      ctx.beginPath();
      ctx.arc(toX(xs[i]), toY(ys[i]), radius, 0, 2 * Math.PI);
      ctx.fill();
    }
  }

  function drawFront(ctx, front) {
    const fitting = front.points.filter((point) => point.fits);
    const isBound = front.factor > 1.0005;
    if (fitting.length < front.points.length) stroke(ctx, staircase(front.points, "bound_ms"), colours.faint, 1.5);
    if (fitting.length) {
      if (isBound) {
        const margin = staircase(fitting, "latency_ms");
        margin.push(...staircase(fitting, "bound_ms").reverse());
        fill(ctx, margin, colours.margin);
        stroke(ctx, staircase(fitting, "latency_ms"), colours.plain, 1.25);
      }
      if (fitting[0].low !== null) {
        const band = staircase(fitting, "bound_ms", "high");
        band.push(...staircase(fitting, "bound_ms", "low").reverse());
        fill(ctx, band, colours.band);
      }
      stroke(ctx, staircase(fitting, "bound_ms"), colours.accent, 2);
    }
    const seen = fitting.filter((point) => point.bound_ms >= view.x0 && point.bound_ms <= view.x1);
    if (seen.length > 80) return;
    ctx.fillStyle = colours.accent;
    for (const point of seen) dot(ctx, toX(point.bound_ms), toY(point.height), 2.5);
  }

  /** The best accuracy within each budget: it rises at a network and then holds until the next. */
  function staircase(points, column, row = "height") {
    const path = [];
    let before = null;
    for (const point of points) {
      const [x, y] = [toX(point[column]), toY(point[row])];
      if (before !== null) path.push([x, before]);
      path.push([x, y]);
      before = y;
    }
    if (points.at(-1)) path.push([Math.max(toX(view.x1), path.at(-1)[0]), before]);
    return path;
  }

  function drawReference(ctx, place) {
    const [x, y] = [toX(place.latency_ms), toY(place.height)];
    ctx.fillStyle = colours.surface;
    ctx.strokeStyle = colours.ink;
    ctx.lineWidth = 1.5;
    ctx.beginPath();
    ctx.moveTo(x, y - 5);
    ctx.lineTo(x + 5, y);
    ctx.lineTo(x, y + 5);
    ctx.lineTo(x - 5, y);
    ctx.closePath();
    ctx.fill();
    ctx.stroke();
    ctx.font = font();
    ctx.fillStyle = colours.ink;
    // Beside and below, clear of the line that most references lie near; at the lower edge there is only above.
    const fitsRight = x + 8 + ctx.measureText(place.name).width < plot.over.clientWidth;
    const [labelX, labelY] = [x + (fitsRight ? 8 : -8), y + 14 < plot.over.clientHeight ? y + 13 : y - 11];
    ctx.textAlign = fitsRight ? "left" : "right";
    ctx.textBaseline = "middle";
    ctx.lineJoin = "round";
    ctx.lineWidth = 3;
    ctx.strokeStyle = colours.paper;
    ctx.strokeText(place.name, labelX, labelY);
    ctx.fillText(place.name, labelX, labelY);
  }

  // -- the answer -----------------------------------------------------------------------------------------------------

  function schedule() {
    if (scheduled) return;
    scheduled = true;
    requestAnimationFrame(() => {
      scheduled = false;
      if (isReady) drawOverlay();
    });
  }

  function drawOverlay() {
    const ctx = overlay.getContext("2d");
    const { clientWidth: width, clientHeight: height } = plot.over;
    ctx.setTransform(devicePixelRatio, 0, 0, devicePixelRatio, 0, 0);
    ctx.clearRect(0, 0, width, height);
    if (answer.budget_ms !== null) drawBudget(ctx, width, height);
    if (answer.predicted) drawChosen(ctx);
    if (hovered) {
      ctx.strokeStyle = colours.ink;
      ctx.lineWidth = 1.5;
      ctx.beginPath();
      ctx.arc(hovered.x, hovered.y, 5.5, 0, 2 * Math.PI);
      ctx.stroke();
    }
  }

  function drawBudget(ctx, width, height) {
    const x = toX(answer.budget_ms);
    const beyond = Math.max(0, Math.min(width, x));
    ctx.fillStyle = colours.veil;
    ctx.fillRect(beyond, 0, width - beyond, height);
    if (x < -1 || x > width + 1) return;
    ctx.strokeStyle = colours.accent;
    ctx.lineWidth = 1.25;
    ctx.beginPath();
    ctx.moveTo(x, 0);
    ctx.lineTo(x, height);
    ctx.stroke();
    // A handle, so that it can be seen that the line can be taken hold of.
    ctx.fillStyle = colours.accent;
    ctx.beginPath();
    ctx.roundRect(x - 4, height - 26, 8, 20, 4);
    ctx.fill();
  }

  function drawChosen(ctx) {
    const { latency_ms, latency_upper_ms, height, heights: interval } = answer.predicted;
    const [x, bound, y] = [toX(latency_ms), toX(latency_upper_ms), toY(height)];
    ctx.strokeStyle = colours.ink;
    ctx.lineWidth = 1.25;
    if (bound - x > 1) whisker(ctx, x, y, bound, y);
    if (interval) {
      const [low, high] = [toY(interval[0]), toY(interval[1])];
      if (low - high > 14) whisker(ctx, bound, low, bound, high);
    }
    ctx.fillStyle = colours.paper;
    dot(ctx, bound, y, 8.5);
    ctx.fillStyle = answer.isStale ? colours.soft : colours.accent;
    dot(ctx, bound, y, 6);
  }

  function whisker(ctx, x0, y0, x1, y1) {
    const across = x0 === x1 ? [3, 0] : [0, 3];
    ctx.beginPath();
    ctx.moveTo(x0, y0);
    ctx.lineTo(x1, y1);
    for (const [x, y] of [
      [x0, y0],
      [x1, y1],
    ]) {
      ctx.moveTo(x - across[0], y - across[1]);
      ctx.lineTo(x + across[0], y + across[1]);
    }
    ctx.stroke();
  }

  // -- pointer --------------------------------------------------------------------------------------------------------

  function listen(over) {
    let drag = null;
    let clickedAt = -Infinity;
    let beforeClick = null;
    const touches = new Map();
    const place = (event) => {
      const box = over.getBoundingClientRect();
      return [event.clientX - box.left, event.clientY - box.top];
    };
    const isOnLine = (px) => answer.budget_ms !== null && Math.abs(toX(answer.budget_ms) - px) <= GRAB_PX;
    const choose = (px) => onBudget(Math.max(fromX(Math.min(Math.max(px, 0), over.clientWidth)), 0.001));

    over.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      const [px, py] = place(event);
      over.setPointerCapture(event.pointerId);
      if (event.pointerType !== "mouse") {
        touches.set(event.pointerId, [px, py]);
        // One finger moves the budget, two zoom.
        drag = touches.size === 2 ? { kind: "pinch", ...spread(touches) } : { kind: "budget", px, py };
      } else {
        drag = { kind: isOnLine(px) ? "budget" : "lasso", px, py };
      }
      hover(null);
    });

    over.addEventListener("pointermove", (event) => {
      const [px, py] = place(event);
      if (!drag) {
        over.style.cursor = isOnLine(px) ? "ew-resize" : "crosshair";
        if (event.pointerType === "mouse") hover(isOnLine(px) ? null : nearest(px, py));
        return;
      }
      if (drag.kind === "budget") {
        if (drag.isMoved || Math.abs(px - drag.px) > 2) {
          drag.isMoved = true;
          choose(px);
        }
      } else if (drag.kind === "pinch") {
        if (!touches.has(event.pointerId)) return;
        touches.set(event.pointerId, [px, py]);
        const now = spread(touches);
        if (drag.gap > 0 && now.gap > 0) zoom(now.gap / drag.gap, now.px, now.py);
        drag = { kind: "pinch", ...now };
      } else {
        lasso.hidden = !isWide(drag, px, py);
        const [left, right] = [Math.min(drag.px, px), Math.max(drag.px, px)];
        const [top, bottom] = isFlat(drag, py) ? [0, over.clientHeight] : [Math.min(drag.py, py), Math.max(drag.py, py)];
        Object.assign(lasso.style, {
          left: `${left}px`,
          top: `${top}px`,
          width: `${right - left}px`,
          height: `${bottom - top}px`,
        });
      }
    });

    const end = (event) => {
      touches.delete(event.pointerId);
      if (!drag || event.type === "pointercancel") {
        drag = null;
        lasso.hidden = true;
        return;
      }
      const [px, py] = place(event);
      const was = drag;
      drag = null;
      lasso.hidden = true;
      if (was.kind === "pinch" || was.isMoved) return;
      if (was.kind === "lasso" && isWide(was, px, py)) {
        const isStrip = isFlat(was, py);
        const clamp = (value, most) => Math.min(Math.max(value, 0), most);
        const xs = [was.px, px].map((p) => fromX(clamp(p, over.clientWidth))).sort((a, b) => a - b);
        const ys = [was.py, py].map((p) => fromY(clamp(p, over.clientHeight))).sort((a, b) => a - b);
        const [y0, y1] = isStrip ? heights(xs) : ys;
        look({ x0: xs[0], x1: xs[1], y0, y1 });
        return;
      }
      // A click: on something, its budget; elsewhere, the budget of that place.
      const on = nearest(px, py);
      if (event.timeStamp - clickedAt > DOUBLE_CLICK_MS) beforeClick = answer.budget_ms;
      clickedAt = event.timeStamp;
      if (on?.budget_ms) onBudget(on.budget_ms);
      else choose(px);
    };
    over.addEventListener("pointerup", end);
    over.addEventListener("pointercancel", end);
    over.addEventListener("pointerleave", () => !drag && hover(null));
    over.addEventListener("dblclick", () => {
      // Its two clicks have set the budget; only the view was meant.
      if (beforeClick !== null) onBudget(beforeClick);
      look({ ...whole });
    });
    over.addEventListener(
      "wheel",
      (event) => {
        // The page keeps scrolling; ctrl or a pinch on a touchpad zooms, as in maps.
        if (!event.ctrlKey && !event.metaKey) return;
        event.preventDefault();
        zoom(Math.exp(-event.deltaY * 0.01), ...place(event));
      },
      { passive: false },
    );
  }

  const isWide = (drag, px, py) => Math.hypot(px - drag.px, py - drag.py) >= MIN_ZOOM_PX && Math.abs(px - drag.px) > 4;
  const isFlat = (drag, py) => Math.abs(py - drag.py) < 16;

  /** The heights that a strip of latencies asks for: those of the front there, with some air. */
  function heights([x0, x1]) {
    const ys = data.fronts
      .flatMap((front) => front.points)
      .filter((point) => point.bound_ms >= x0 && point.bound_ms <= x1)
      .flatMap((point) => [point.low ?? point.height, point.high ?? point.height]);
    if (!ys.length) return [view.y0, view.y1];
    const [low, high] = [Math.min(...ys), Math.max(...ys)];
    const air = (high - low) * 0.25 || (whole.y1 - whole.y0) * 0.01;
    return [Math.max(low - air, whole.y0), Math.min(high + air, whole.y1)];
  }

  function spread(touches) {
    const [[ax, ay], [bx, by]] = [...touches.values()];
    return { gap: Math.hypot(ax - bx, ay - by), px: (ax + bx) / 2, py: (ay + by) / 2 };
  }

  /** What the pointer is on: a reference before a network of a front before a known network. */
  function nearest(px, py) {
    const found = [];
    const consider = (x, y, handicap, make) => {
      const distance = Math.hypot(x - px, y - py) + handicap;
      if (distance < SNAP_PX) found.push({ distance, x, y, make });
    };
    for (const place of data.references ?? []) {
      consider(toX(place.latency_ms), toY(place.height), -6, () => ({ title: place.name, ...facts(place) }));
    }
    data.fronts.forEach((front, i) => {
      for (const point of front.points) {
        const title = i ? `Front of ${front.label}` : "On the front";
        const handicap = point.fits ? 0 : 8;
        consider(toX(point.bound_ms), toY(point.height), handicap, () => ({
          title: point.fits ? title : `${title}, beyond your limits`,
          budget_ms: i || !point.fits ? null : Math.ceil(point.bound_ms * 1000 - 1e-6) / 1000,
          ...facts(point, front.factor),
        }));
      }
    });
    const { latency_ms: xs = [], heights: ys = [] } = data.cloud ?? {};
    for (let i = 0; i < xs.length; i++) {
      consider(toX(xs[i]), toY(ys[i]), 14, () => ({
        title: "Measured network",
        ...facts({ latency_ms: xs[i], height: ys[i] }),
      }));
    }
    if (!found.length) return null;
    const best = found.reduce((a, b) => (b.distance < a.distance ? b : a));
    return { x: best.x, y: best.y, ...best.make() };
  }

  function facts(point, factor = 1) {
    const lines = [data.quality.text(point.height)];
    lines.push(
      factor > 1.0005
        ? `${withUnit(ms(point.bound_ms), "ms")} promised, ${withUnit(ms(point.latency_ms), "ms")} plain`
        : withUnit(ms(point.latency_ms), "ms"),
    );
    if (point.macs_m) lines.push(`${withUnit(amount(point.macs_m), "M")} MACs, ${withUnit(amount(point.params_m), "M")} params`);
    return { lines };
  }

  function hover(what) {
    if (!what && !hovered) return;
    hovered = what;
    tip.hidden = !what;
    if (what) {
      const title = document.createElement("strong");
      title.textContent = what.title;
      tip.replaceChildren(title, ...what.lines.map((line) => Object.assign(document.createElement("span"), { textContent: line })));
      const { clientWidth: width } = plot.over;
      const left = what.x > width - tip.offsetWidth - 24 ? what.x - tip.offsetWidth - 14 : what.x + 14;
      const top = Math.min(what.y + 14, plot.over.clientHeight - tip.offsetHeight - 4);
      tip.style.transform = `translate(${Math.round(Math.max(left, 0))}px, ${Math.round(Math.max(top, 0))}px)`;
    }
    schedule();
  }

  const zoomed = () => (whole.y1 - whole.y0) / (view.y1 - view.y0);

  // -- drawing --------------------------------------------------------------------------------------------------------

  function trace(ctx, path) {
    ctx.beginPath();
    path.forEach(([x, y], i) => (i ? ctx.lineTo(x, y) : ctx.moveTo(x, y)));
  }

  function stroke(ctx, path, colour, width) {
    trace(ctx, path);
    Object.assign(ctx, { strokeStyle: colour, lineWidth: width, lineJoin: "round" });
    ctx.stroke();
  }

  function fill(ctx, path, colour) {
    trace(ctx, path);
    ctx.closePath();
    ctx.fillStyle = colour;
    ctx.fill();
  }

  function dot(ctx, x, y, radius) {
    ctx.beginPath();
    ctx.arc(x, y, radius, 0, 2 * Math.PI);
    ctx.fill();
  }

  return {
    /** quality: what heights mean; fronts: [{points: [{latency_ms, bound_ms, height, low, high, fits, macs_m, params_m}], factor, label}] */
    setData(next, { keepView = false } = {}) {
      const isOther = next.isLog !== data.isLog;
      data = next;
      hovered = null;
      tip.hidden = true;
      if (!data.fronts.length) return;
      const wasWhole = isWhole();
      fit();
      if (!keepView || wasWhole) view = { ...whole };
      if (!plot || isOther) build();
      else look(view);
    },
    setAnswer(next) {
      answer = next;
      schedule();
    },
    zoomBy: (factor) => {
      if (!plot) return;
      // Towards the chosen network, if it is in sight.
      const { predicted } = answer;
      const [x, y] = predicted ? [toX(predicted.latency_upper_ms), toY(predicted.height)] : [-1, -1];
      const isSeen = x >= 0 && y >= 0 && x <= plot.over.clientWidth && y <= plot.over.clientHeight;
      if (isSeen) zoom(factor, x, y);
      else zoom(factor);
    },
    reset: () => plot && look({ ...whole }),
    isWhole,
    recolour() {
      colours = readColours(root);
      if (plot) build();
    },
    /** From the left edge of `root`, in CSS pixels; null before there is anything. */
    placeOf: (value) => (isReady ? toX(value) + plot.over.offsetLeft : null),
    /** The plotting area in the same measure. */
    extent: () => (isReady ? [plot.over.offsetLeft, plot.over.offsetLeft + plot.over.clientWidth] : null),
  };
}

const tick = (value) => (value === null ? "" : String(Math.round(value * 1e6) / 1e6));

/** Canvas knows nothing of style sheets: ask the browser what each colour is in the current theme. */
function readColours(root) {
  const probe = document.createElement("span");
  root.append(probe);
  const of = (name) => {
    probe.style.color = `var(--${name})`;
    return getComputedStyle(probe).color;
  };
  const names = ["ink", "soft", "hair", "paper", "surface", "accent", "faint", "plain", "band", "margin", "cloud", "veil"];
  const colours = Object.fromEntries(names.map((name) => [name, of(name)]));
  const { fontFamily } = getComputedStyle(probe);
  probe.remove();
  return { ...colours, fontFamily, fontSize: "12px" };
}
