// The page: what is asked, what is shown, and what happens when the service cannot answer.

import * as address from "./address.js";
import * as api from "./api.js";
import { createChart } from "./chart.js";
import * as format from "./format.js";
import { latest } from "./latest.js";
import * as network from "./network.js";
import { qualityOf } from "./quality.js";
import * as snippets from "./snippets.js";

const ASK_EVERY_MS = 60;
const PAUSE_MS = 900; // a pause this long ends a gesture: changes are then marked against the network it ended with
const STEPS = 500;
const LOG_FROM_RATIO = 12; // a front that spans more than this is drawn on a log scale
const TABLE_ROWS = 24;
const RETRY_MS = [500, 1000, 2000, 4000];

const COSTS = [
  { name: "latency", title: "Latency", unit: "ms", value: (p) => p.latency_upper_ms },
  { name: "macs", limit: "macs_m", title: "MACs", unit: "M", value: (p) => p.macs_m, spoken: "MACs, millions" },
  { name: "params", limit: "params_m", title: "Parameters", unit: "M", value: (p) => p.params_m, spoken: "parameters, millions" },
  { name: "size", limit: "size_mb", title: "Weights", unit: "MB", value: (p) => p.size_mb, spoken: "size of the weights, megabytes" },
  {
    name: "peak_memory",
    limit: "peak_memory_mb",
    title: "Peak memory",
    unit: "MB",
    value: (p) => p.peak_memory_mb,
    spoken: "peak memory of activations, megabytes",
  },
];

const $ = (id) => document.getElementById(id);
const main = $("main");

const state = address.read();
let bundles = [];
/** name -> {body, quality, points, known, bounds}: what has been fetched of each bundle. */
const landscapes = new Map();
let shown = null; // {architecture, predicted, budget_ms, answer}
let baseline = null; // the architecture that changes are marked against
let lastMove = 0;
let isGone = false;
let retryTimer = null;

// -- what is selected -------------------------------------------------------------------------------------------------

const idOf = (bundle) => (bundle.is_default ? bundle.name : `${bundle.name}@${bundle.version}`);
const labelOf = (bundle) => {
  const dataset = bundle.accuracy?.dataset;
  return [dataset, bundle.device.name].filter(Boolean).join(" · ");
};
const titleOf = (bundle) => qualityOf(bundle).title;
const find = (id) => bundles.find((bundle) => idOf(bundle) === id || `${bundle.name}@${bundle.version}` === id);
const current = () => landscapes.get(state.bundle);
const coverageNow = () => state.coverage ?? current().body.coverage;

function factorOf(landscape, coverage) {
  const bound = landscape.bounds.find((b) => Math.abs(b.coverage - coverage) < 1e-9);
  return (bound ?? landscape.bounds.find((b) => b.coverage === landscape.body.coverage) ?? { factor: 1 }).factor;
}

const roundUp = (value) => Math.ceil(value * 1000 - 1e-6) / 1000;

/** The budgets worth choosing from: below there is no network, above there is no better one. */
function range() {
  const { points } = current();
  const factor = factorOf(current(), coverageNow());
  return [roundUp(points[0].latency_ms * factor), roundUp(points.at(-1).latency_ms * factor)];
}

const isLog = () => range()[1] / range()[0] >= LOG_FROM_RATIO;

function toStep(budget_ms) {
  const [low, high] = range();
  const share = isLog() ? Math.log(budget_ms / low) / Math.log(high / low) : (budget_ms - low) / (high - low);
  return Math.round(Math.min(Math.max(share, 0), 1) * STEPS);
}

function fromStep(step) {
  const [low, high] = range();
  if (step <= 0) return low;
  if (step >= STEPS) return high;
  const share = step / STEPS;
  return tidy(isLog() ? low * (high / low) ** share : low + (high - low) * share);
}

/** A budget with as many decimals as the range can tell apart. */
function tidy(budget_ms) {
  const [low, high] = range();
  const digits = Math.min(3, Math.max(0, Math.ceil(2.4 - Math.log10(high - low))));
  const rounded = Number(budget_ms.toFixed(digits));
  return Math.min(Math.max(rounded, low), high);
}

function fits(point) {
  return Object.entries(state.limits).every(([name, limit]) => point[name] <= limit);
}

// -- asking -----------------------------------------------------------------------------------------------------------

const asking = latest({ send: api.generate, show: showResult, fail: showFailure, everyMs: ASK_EVERY_MS });

/** The request that the page stands for; also what the snippets ask. */
function question() {
  const body = { budget_ms: state.budget_ms, bundle: state.bundle };
  if (Object.keys(state.limits).length) body.limits = { ...state.limits };
  if (state.coverage !== null) body.coverage = state.coverage;
  return body;
}

function ask() {
  if (!current() || state.budget_ms === null) return; // on the way to another bundle, which asks when it is there
  const now = performance.now();
  if (now - lastMove > PAUSE_MS || baseline === null) baseline = shown?.architecture ?? null;
  lastMove = now;
  main.setAttribute("aria-busy", "true");
  showBudget();
  rememberAddress();
  asking.ask(question());
}

// Browsers slow down pages that change their address with every step of a slider.
let addressTimer = null;
function rememberAddress() {
  clearTimeout(addressTimer);
  addressTimer = setTimeout(() => state.budget_ms !== null && address.write(state), 150);
}

function setBudget(budget_ms, { fromField = false } = {}) {
  if (!current() || !(budget_ms > 0)) return;
  state.budget_ms = budget_ms;
  if (!fromField) $("budget").value = format.typed(budget_ms);
  ask();
}

// -- showing an answer ------------------------------------------------------------------------------------------------

function showResult({ answer, problem }, asked, isLast) {
  backAgain();
  if (asked.bundle !== state.bundle) return;
  if (isLast) main.setAttribute("aria-busy", "false");
  if (problem) {
    showProblem(problem);
    return;
  }
  if (answer.bundle.version !== current().body.version) start(); // it has been trained again
  main.dataset.state = "answered";
  hideNotice();
  $("rescue").hidden = true;
  const { quality } = current();
  const predicted = quality.lift(answer.predicted);
  shown = { ...answer, predicted, question: asked };
  $("verdict-lead").textContent = ", the best network reaches";
  $("verdict").textContent = quality.text(predicted.height);
  showUnder(predicted);
  $("network-title").textContent = "The network";
  showNetwork(answer.architecture);
  showCosts(predicted, answer.binding);
  showNext(predicted);
  showTake(answer);
  showAnswerInChart();
  if (isLast) say(answer);
}

function showAnswerInChart() {
  chart.setAnswer({
    budget_ms: state.budget_ms,
    predicted: main.dataset.state === "answered" || isGone ? (shown?.predicted ?? null) : null,
    isStale: isGone,
  });
}

function showUnder(predicted) {
  const { body, quality } = current();
  const where = body.accuracy?.dataset && body.accuracy.dataset !== "none" ? ` on ${body.accuracy.dataset}` : "";
  const interval = predicted?.heights;
  const unit = quality.unit && `\u202f${quality.unit}`;
  $("under-accuracy").textContent = interval
    ? `${quality.name}${where}, ${quality.range(interval)}${unit} with ${format.coverage(predicted.interval_coverage)}\u202f% confidence.`
    : `${quality.name}${where}.`;
  $("under-device").textContent = `on ${body.device.name}.`;
  const landscape = current();
  $("promise-lead").textContent = coverageNow() > 0.5 ? "The budget holds" : "The budget is kept";
  $("coverage").disabled = landscape.bounds.length < 2;
  showCompared();
}

function showCompared() {
  const other = landscapes.get(state.compare);
  $("compared").hidden = !other;
  if (!other) return;
  const factor = factorOf(other, coverageNow());
  const best = other.points.filter((p) => p.latency_ms * factor <= state.budget_ms && fits(p)).at(-1);
  const text = best
    ? `${other.quality.text(best.height)} within the same budget`
    : `no network is that fast; the first needs ${format.withUnit(format.ms(roundUp(other.points[0].latency_ms * factor)), "ms")}`;
  $("compared").textContent = `Dashed, ${labelOf(other.body)}: ${text}.`;
}

function showNetwork(architecture) {
  const { marks, sentences } = network.compare(baseline, architecture);
  const plan = network.draw($("drawing"), architecture, marks, baseline);
  const size = architecture.resolution ? `${architecture.resolution}×${architecture.resolution} px in · ` : "";
  $("network-meta").textContent = `${size}${architecture.id}`;
  const hasBlocks = plan.rows?.some((row) => row.cells.some((cell) => cell.kernel));
  $("drawing-key").hidden = !hasBlocks;
  $("drawing-key").textContent = "Height and shade: kernel size. Width: expand ratio.";
  showChanges(sentences);
}

function showChanges(sentences) {
  if (!baseline || !sentences.length) {
    $("changes").textContent = baseline ? "The same network as before." : "Move the budget, and what changes is outlined.";
    return;
  }
  const strong = document.createElement("strong");
  strong.textContent = sentences.length === 1 ? "1 change" : `${sentences.length} changes`;
  const some = sentences.slice(0, 4).join("; ");
  const rest = sentences.length > 4 ? `; and ${sentences.length - 4} more` : "";
  $("changes").replaceChildren(strong, ` against the previous answer: ${some}${rest}.`);
}

function buildCosts() {
  $("costs").replaceChildren(
    ...COSTS.map(({ name, limit, title, unit, spoken }) => {
      const tile = document.createElement("div");
      tile.className = "tile";
      tile.id = `cost-${name}`;
      const heading = element("h3", "tile-name", title);
      heading.style.margin = "0";
      heading.style.fontWeight = "400";
      const value = element("p", "tile-value", "–");
      const use = element("div", "use");
      use.append(document.createElement("span"));
      use.ariaHidden = "true";
      tile.append(heading, value, use);
      if (!limit) {
        tile.append(element("p", "tile-note", ""));
        return tile;
      }
      const label = element("label", "limit", "≤");
      const input = Object.assign(document.createElement("input"), {
        type: "number",
        min: "0",
        step: "any",
        inputMode: "decimal",
        placeholder: "no limit",
        autocomplete: "off",
        id: `limit-${limit}`,
        value: state.limits[limit] ?? "",
      });
      input.ariaLabel = `Limit of ${spoken}`;
      input.addEventListener("input", () => setLimit(limit, input.value));
      label.append(input, element("span", "", unit));
      tile.append(label);
      return tile;
    }),
  );
}

function setLimit(name, text) {
  if (text === "") delete state.limits[name];
  else if (Number(text) > 0) state.limits[name] = Number(text);
  else return;
  if (!current()) return;
  showLandscape({ keepView: true });
  ask();
}

function showCosts(predicted, binding) {
  for (const { name, limit, unit, value } of COSTS) {
    const tile = $(`cost-${name}`);
    const amount = value(predicted);
    const most = limit ? state.limits[limit] : state.budget_ms;
    const number = name === "latency" ? format.ms(amount) : format.amount(amount);
    tile.querySelector(".tile-value").replaceChildren(number, element("small", "", unit));
    tile.querySelector(".use").style.setProperty("--share", most ? `${Math.min(1, amount / most) * 100}%` : "0%");
    tile.classList.toggle("is-binding", binding === name);
  }
  const note = $("cost-latency").querySelector(".tile-note");
  note.textContent =
    predicted.latency_coverage > 0.5
      ? `at ${format.coverage(predicted.latency_coverage)}\u202f%; plain ${format.withUnit(format.ms(predicted.latency_ms), "ms")}`
      : "plain prediction";
  const names = {
    latency: "The latency budget",
    macs: "The MACs limit",
    params: "The parameter limit",
    size: "The size limit",
    peak_memory: "The memory limit",
  };
  $("binding").textContent = names[binding]
    ? `${names[binding]} binds`
    : binding === "none"
      ? "Nothing binds: there is no better network"
      : "";
}

/** The neighbours on the front, a step above and below: a tenth of a percent, or what corresponds to it. */
function showNext(predicted) {
  const factor = factorOf(current(), coverageNow());
  const { quality } = current();
  const points = current().points.filter(fits);
  const up = points.find((p) => p.height >= predicted.height + quality.step);
  const down = points.find((p) => p.height >= predicted.height - quality.step);
  const at = (p) => roundUp(p.latency_ms * factor);
  const spent = predicted.latency_upper_ms;
  const cheaper = down && spent - at(down) > 0.0005 && down.height < predicted.height ? down : null;
  $("next").hidden = false;
  const among = Object.keys(state.limits).length ? " within your limits" : "";
  $("steps").replaceChildren(
    cheaper
      ? step(
          `${quality.gap(predicted.height - cheaper.height)} ${quality.sign > 0 ? "less" : "more"} saves ${format.withUnit(format.ms(spent - at(cheaper)), "ms")}`,
          at(cheaper),
        )
      : element("p", "step", `No network of the front is faster and ${quality.stepText} worse at most.`),
    up
      ? step(
          `${quality.gap(up.height - predicted.height)} ${quality.sign > 0 ? "more" : "less"} costs ${format.withUnit(format.ms(Math.max(0, at(up) - spent)), "ms")}`,
          at(up),
        )
      : element("p", "step", `No network of the front is ${quality.stepText} better${among}.`),
  );
}

function step(title, budget_ms) {
  const button = element("button", "step");
  button.type = "button";
  button.append(element("strong", "", title), `Set the budget to ${format.withUnit(format.typed(budget_ms), "ms")}`);
  button.addEventListener("click", () => setBudget(budget_ms));
  return button;
}

function showTake(answer) {
  const model = answer.links?.model;
  $("download").hidden = !model;
  $("weights").hidden = Boolean(model);
  if (model) {
    $("download").href = `${model}?bundle=${encodeURIComponent(state.bundle)}`;
    $("download").download = `${answer.architecture.id}.onnx`;
  }
  $("export-command").textContent = snippets.exportCommand(answer.architecture, current().body.name);
}

/** A link cannot carry a key: with one, the file is fetched and handed to the browser. */
async function download(event) {
  if (!api.key.get()) return;
  event.preventDefault();
  const link = $("download");
  try {
    const url = URL.createObjectURL(await api.file(link.href));
    Object.assign(document.createElement("a"), { href: url, download: link.download }).click();
    setTimeout(() => URL.revokeObjectURL(url), 60_000);
  } catch (error) {
    showNotice(error.message);
  }
}

let saying = null;
/** For those who listen: once the slider rests, not at every step. */
function say(answer) {
  clearTimeout(saying);
  saying = setTimeout(() => {
    const { quality } = current();
    const predicted = quality.lift(answer.predicted);
    $("said").textContent =
      `${quality.spoken(predicted.height)} within ${format.typed(answer.budget_ms)} milliseconds, ` +
      `predicted latency ${format.ms(predicted.latency_ms)}. ${$("changes").textContent.split(":")[0]}.`;
  }, 600);
}

// -- no answer --------------------------------------------------------------------------------------------------------

function showProblem(problem) {
  const { code, body } = problem;
  if (code !== "infeasible-budget") {
    main.dataset.state = "refused";
    showNotice(problem.message);
    return;
  }
  main.dataset.state = "infeasible";
  $("next").hidden = true;
  hideNotice();
  const limited = limitInTheWay(body);
  $("verdict-lead").textContent = limited ? " and these limits" : "";
  $("verdict").textContent = "no network fits";
  showUnder(null);
  $("under-accuracy").textContent = "";
  $("rescue").hidden = false;
  const smallest = body.smallest_feasible_ms;
  if (limited) {
    const { cost, needs } = limited;
    $("rescue-text").textContent =
      `The fastest network of all needs ${format.withUnit(format.amount(needs), cost.unit)} (${cost.title.toLowerCase()}).`;
    rescue("Drop that limit", () => {
      $(`limit-${cost.limit}`).value = "";
      setLimit(cost.limit, "");
    });
  } else if (smallest) {
    $("rescue-text").textContent = `The fastest network, drawn below, needs ${format.withUnit(format.typed(smallest), "ms")}.`;
    rescue(`Use ${format.withUnit(format.typed(smallest), "ms")}`, () => setBudget(smallest));
  } else {
    $("rescue-text").textContent = problem.message;
    $("rescue-act").hidden = true;
  }
  const point = current().points.find((p) => p.architecture.id === body.architecture?.id);
  if (body.architecture) {
    baseline = null;
    shown = null;
    $("network-title").textContent = "The fastest network there is";
    showNetwork(body.architecture);
    if (point) {
      showCosts(
        { ...point, latency_upper_ms: roundUp(point.latency_ms * factorOf(current(), coverageNow())), latency_coverage: coverageNow() },
        "",
      );
    }
    $("download").hidden = true;
    $("export-command").textContent = snippets.exportCommand(body.architecture, current().body.name);
    infeasible = body.architecture;
  }
  chart.setAnswer({ budget_ms: state.budget_ms, predicted: null, isStale: false });
  $("said").textContent = `No network fits within ${format.typed(state.budget_ms)} milliseconds. ${$("rescue-text").textContent}`;
}

let infeasible = null;

function limitInTheWay(body) {
  if (body.smallest_feasible_ms) return null;
  const fastest = current().points[0];
  const cost = COSTS.find(({ limit }) => limit && state.limits[limit] !== undefined && fastest[limit] > state.limits[limit]);
  return cost ? { cost, needs: fastest[cost.limit] } : null;
}

function rescue(text, act) {
  $("rescue-act").hidden = false;
  $("rescue-act").textContent = text;
  $("rescue-act").onclick = act;
}

function showFailure(error, asked, isLast) {
  if (error instanceof api.Gone) {
    goneAway();
    return;
  }
  if (isLast) main.setAttribute("aria-busy", "false");
  if (!(error instanceof api.Problem)) throw error;
  if (error.status === 401 || error.status === 403) {
    askForKey(error);
  } else if (error.isOverload) {
    main.dataset.state = shown ? "answered" : main.dataset.state;
    showNotice(
      `The service has more to do than it can. ${shown ? `This is the answer for ${format.withUnit(format.typed(shown.budget_ms), "ms")}; a` : "A"}sking again in ${error.retryAfterS}\u202fs.`,
    );
    clearTimeout(retryTimer);
    retryTimer = setTimeout(ask, error.retryAfterS * 1000);
  } else if (error.code === "unknown-bundle") {
    start();
  } else {
    showNotice(error.message);
  }
}

function goneAway(attempt = 0) {
  if (isGone && attempt === 0) return;
  isGone = true;
  main.dataset.state = "gone";
  main.setAttribute("aria-busy", "false");
  const kept = shown ? ` What you see is its last answer, for ${format.withUnit(format.typed(shown.budget_ms), "ms")}.` : "";
  showNotice(`The service does not answer.${kept} It is being looked for.`, "Try now", () => tryAgain(0));
  showAnswerInChart();
  clearTimeout(retryTimer);
  retryTimer = setTimeout(() => tryAgain(attempt + 1), RETRY_MS[Math.min(attempt, RETRY_MS.length - 1)]);
}

async function tryAgain(attempt) {
  if (!isGone) return;
  if (!(await api.isReady())) {
    goneAway(attempt || 1);
    return;
  }
  backAgain();
  await start();
}

function backAgain() {
  if (!isGone) return;
  isGone = false;
  clearTimeout(retryTimer);
  hideNotice();
}

addEventListener("online", () => tryAgain(0));
document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && tryAgain(0));

function showNotice(text, action, act) {
  if ($("notice-text").textContent !== text) $("notice-text").textContent = text;
  $("notice").hidden = false;
  $("notice-act").hidden = !action;
  $("notice-act").textContent = action ?? "";
  $("notice-act").onclick = act ?? null;
}

function hideNotice() {
  $("notice").hidden = true;
  $("notice-text").textContent = "";
}

function askForKey(error) {
  if ($("key-dialog").open) return;
  if (api.key.get()) $("key-why").textContent = `${error.message}. It is kept in this tab only.`;
  $("key-dialog").showModal();
}

$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  api.key.set($("key").value.trim());
  $("key").value = "";
  $("key-dialog").close();
  start();
});

// -- the landscape ----------------------------------------------------------------------------------------------------

const chart = createChart($("chart"), { onBudget: (budget_ms) => setBudget(tidyAnywhere(budget_ms)), onView: placeSlider });

/** Where the chart was touched, but never outside of what has an answer. */
function tidyAnywhere(budget_ms) {
  const [low, high] = range();
  // The budget of a network that was clicked has 3 decimals already, and must not lose them.
  const exact = Math.abs(budget_ms * 1000 - Math.round(budget_ms * 1000)) < 1e-9;
  return Math.min(Math.max(exact ? budget_ms : tidy(budget_ms), low), high);
}

async function load(id) {
  const body = find(id);
  const before = landscapes.get(id);
  if (before && before.body.digest === body.digest) return before;
  const [front, known] = await Promise.all([api.front(id), api.known(id).catch(withoutKnown)]);
  const quality = qualityOf(body);
  const points = front.map(({ architecture, predicted }) => ({ architecture, ...quality.lift(predicted) }));
  // The table's default promise is in the front itself, in case the rest could not be had.
  const factor = points.length ? points[0].latency_upper_ms / points[0].latency_ms : 1;
  const bounds = known.bounds.length ? known.bounds : [{ coverage: body.coverage, factor }];
  const landscape = { body, quality, points, known, bounds };
  landscapes.set(id, landscape);
  return landscape;
}

/** The page can do without the cloud of known networks; it cannot without a front. */
function withoutKnown(error) {
  if (error instanceof api.Gone || error.status === 401) throw error;
  return { latency_ms: [], top1_percent: [], references: [], bounds: [] };
}

function frontOf(landscape) {
  const factor = factorOf(landscape, coverageNow());
  return {
    factor,
    label: labelOf(landscape.body),
    points: landscape.points.map((p) => ({
      latency_ms: p.latency_ms,
      bound_ms: p.latency_ms * factor,
      height: p.height,
      low: p.heights?.[0] ?? null,
      high: p.heights?.[1] ?? null,
      macs_m: p.macs_m,
      params_m: p.params_m,
      fits: fits(p),
    })),
  };
}

function showLandscape({ keepView = false } = {}) {
  const landscape = current();
  const { quality, known } = landscape;
  const other = landscapes.get(state.compare);
  const fronts = [frontOf(landscape), ...(other ? [frontOf(other)] : [])];
  const ends = fronts.flatMap(({ points }) => [points[0].latency_ms, points.at(-1).bound_ms]);
  chart.setData(
    {
      fronts,
      quality,
      cloud: { latency_ms: known.latency_ms, heights: known.top1_percent.map(quality.heightOf) },
      references: known.references.map(({ name, predicted }) => ({ name, ...quality.lift(predicted) })),
      isLog: Math.max(...ends) / Math.min(...ends) >= LOG_FROM_RATIO,
    },
    { keepView },
  );
  const [low, high] = range();
  $("range-text").textContent = `From ${format.typed(low)} to ${format.typed(high)} milliseconds there are networks to choose from.`;
  $("end-low").textContent = format.typed(low);
  $("end-high").textContent = format.typed(high);
  const first = landscape.points[0];
  const last = landscape.points.at(-1);
  $("chart").setAttribute(
    "aria-label",
    `Pareto front, ${landscape.points.length} networks of it: from ${quality.text(first.height)} within ${format.ms(low)} milliseconds ` +
      `to ${quality.text(last.height)} within ${format.ms(high)} milliseconds. The table below holds the numbers.`,
  );
  for (const id of ["axis-y", "column-y"]) $(id).textContent = quality.title;
  $("next-title").textContent = `What the next ${quality.stepText} costs`;
  showLegend(fronts);
  showTable();
  placeSlider();
}

function showLegend([front, other]) {
  const line = (colour, extra = "") => `<path d="M0 6h20" stroke="var(--${colour})" stroke-width="2" ${extra}/>`;
  const items = [];
  const { known, body } = current();
  const isBound = front.factor > 1.0005;
  const [first] = front.points;
  const band = first.low !== null ? `<rect y="1" width="20" height="10" fill="var(--band)"/>` : "";
  const interval = first.low !== null ? `, with its ${format.coverage(body.accuracy?.interval?.coverage ?? 0.9)}\u202f% interval` : "";
  items.push([band + line("accent"), `Front${isBound ? `, latency promised at ${format.coverage(coverageNow())}\u202f%` : ""}${interval}`]);
  if (isBound) items.push([line("plain"), "the same, plain prediction"]);
  if (other) items.push([line("soft", 'stroke-dasharray="5 4"'), other.label]);
  if (known.latency_ms.length) {
    items.push([
      `<circle cx="10" cy="6" r="2.5" fill="var(--edge)"/>`,
      `${known.latency_ms.length.toLocaleString("en")} measured networks`,
    ]);
  }
  if (known.references.length) {
    items.push([`<path d="M10 1l5 5-5 5-5-5z" fill="var(--surface)" stroke="var(--ink)" stroke-width="1.5"/>`, "reference networks"]);
  }
  $("legend").replaceChildren(
    ...items.map(([drawing, text]) => {
      const item = document.createElement("li");
      item.innerHTML = `<svg viewBox="0 0 20 12" aria-hidden="true" fill="none">${drawing}</svg>`;
      item.append(text);
      return item;
    }),
  );
}

function showTable() {
  const { points, quality } = current();
  const factor = factorOf(current(), coverageNow());
  const count = Math.min(TABLE_ROWS, points.length);
  const rows = Array.from({ length: count }, (_, i) => points[Math.round((i * (points.length - 1)) / Math.max(count - 1, 1))]);
  $("front-rows").replaceChildren(
    ...rows.map((p) => {
      const row = document.createElement("tr");
      const cells = [
        format.typed(roundUp(p.latency_ms * factor)),
        quality.number(p.height),
        format.ms(p.latency_ms),
        format.amount(p.macs_m),
        format.amount(p.params_m),
      ];
      row.append(...cells.map((text) => element("td", "", text)));
      return row;
    }),
  );
}

/** The slider lies under the axis: its thumb is where the budget is in the chart, as long as the whole front is seen. */
function placeSlider() {
  if (!current()) return;
  const extent = chart.extent();
  if (!extent) return;
  const thumb = 22;
  const [low, high] = range();
  let [left, right] = chart.isWhole() ? [chart.placeOf(low), chart.placeOf(high)] : extent;
  left = Math.max(left - thumb / 2, 0);
  right = Math.min(right + thumb / 2, $("chart").clientWidth);
  $("slider-row").style.paddingLeft = `${left}px`;
  $("slider-row").style.paddingRight = `${$("chart").clientWidth - right}px`;
  $("zoom-reset").disabled = chart.isWhole();
  $("zoom-out").disabled = chart.isWhole();
}

function showBudget() {
  const at = toStep(state.budget_ms);
  $("slider").value = String(at);
  $("slider").style.setProperty("--filled", `${(at / STEPS) * 100}%`);
  $("slider").setAttribute("aria-valuetext", `${format.typed(state.budget_ms)} milliseconds`);
  showAnswerInChart();
}

function showFacts() {
  const { body } = current();
  const { evaluator = {}, generator = {} } = body.metrics ?? {};
  const check = body.table_check;
  const facts = [];
  if (evaluator.kendall_tau !== undefined) {
    const mae =
      evaluator.mae_percent !== undefined && body.accuracy?.metric?.column === undefined
        ? `, off by ${format.fraction(evaluator.mae_percent)}\u202f% on average`
        : "";
    facts.push(["Accuracy", `Kendall tau ${format.fraction(evaluator.kendall_tau)} on ${evaluator.num_held_out} networks held out${mae}`]);
  }
  const known = [body.device.runtime, body.device.precision].filter(Boolean).join(", ");
  facts.push([
    "Latency",
    check?.mape_percent !== undefined && check.mape_percent !== null
      ? `off by ${format.percent(check.mape_percent)}\u202f% on ${check.num_networks} whole networks (${known})`
      : `summed over layers; not yet checked on whole networks (${known})`,
  ]);
  if (generator.hypervolume_percent !== undefined) {
    facts.push(["Front", `${format.percent(generator.hypervolume_percent)}\u202f% of the hypervolume of a long search`]);
  }
  if (body.table_measured_at) facts.push(["Measured", new Date(body.table_measured_at).toLocaleDateString("en", { dateStyle: "long" })]);
  facts.push(["Bundle", `${body.name}, version ${body.version}`]);
  $("facts").replaceChildren(
    ...facts.map(([name, value]) => {
      const row = document.createElement("div");
      row.append(element("dt", "", name), element("dd", "", value));
      return row;
    }),
  );
}

function fillChoices() {
  const option = (value, text, isChosen) => Object.assign(new Option(text, value, false, isChosen), { title: text });
  $("bundle-pick").hidden = bundles.length < 2;
  $("compare-pick").hidden = bundles.length < 2;
  const versions = new Set(bundles.filter((b) => !b.is_default).map((b) => b.name));
  const name = (b) => `${labelOf(b)}${versions.has(b.name) ? ` (version ${b.version})` : ""}`;
  $("bundle").replaceChildren(...bundles.map((b) => option(idOf(b), name(b), idOf(b) === state.bundle)));
  $("compare").replaceChildren(
    option("", "nothing", !state.compare),
    // Fronts of different units have no common axis.
    ...bundles
      .filter((b) => idOf(b) !== state.bundle && titleOf(b) === titleOf(find(state.bundle)))
      .map((b) => option(idOf(b), name(b), idOf(b) === state.compare)),
  );
}

function fillCoverages() {
  const { bounds, body } = current();
  $("coverage").replaceChildren(
    ...bounds.map(({ coverage }) => {
      const text = coverage > 0.5 ? `with ${format.coverage(coverage)}\u202f% certainty` : "by the plain prediction";
      return new Option(text, String(coverage), false, Math.abs(coverage - (state.coverage ?? body.coverage)) < 1e-9);
    }),
  );
}

// -- start ------------------------------------------------------------------------------------------------------------

let starts = 0;

/** From nothing, or again: after a change of bundle, a new key, or when the service is back. */
async function start() {
  const number = ++starts;
  const isOvertaken = () => number !== starts;
  try {
    const list = await api.bundles();
    if (isOvertaken()) return;
    bundles = list;
    if (!bundles.length) {
      main.dataset.state = "empty";
      $("verdict-lead").textContent = ", ";
      $("verdict").textContent = "there is no bundle";
      showNotice("The service has no bundle loaded. `pnag train` makes one; `pnag serve --bundle DIR` loads it.");
      return;
    }
    const chosen = find(state.bundle) ?? bundles.find((b) => b.is_default) ?? bundles[0];
    if (state.bundle && !find(state.bundle)) {
      Object.assign(state, { budget_ms: null, coverage: null, limits: {} });
    }
    state.bundle = idOf(chosen);
    if (!find(state.compare) || state.compare === state.bundle) state.compare = null;
    fillChoices();
    const wanted = [state.bundle, state.compare].filter(Boolean);
    // A budget that is known already need not wait for the front.
    if (state.budget_ms !== null) {
      $("budget").value = format.typed(state.budget_ms);
    }
    await Promise.all(wanted.map(load));
    if (isOvertaken()) return;
    if (state.coverage !== null && !current().bounds.some((b) => Math.abs(b.coverage - state.coverage) < 1e-9)) state.coverage = null;
    fillCoverages();
    showFacts();
    showLandscape();
    const [low, high] = range();
    state.budget_ms ??= tidy(isLog() ? Math.sqrt(low * high) : low + (high - low) * 0.4);
    if (document.activeElement !== $("budget")) $("budget").value = format.typed(state.budget_ms);
    ask();
  } catch (error) {
    if (!isOvertaken()) showFailure(error, null, true);
  }
}

function changeBundle(id) {
  Object.assign(state, { bundle: id, compare: state.compare === id ? null : state.compare, coverage: null });
  shown = null;
  baseline = null;
  state.budget_ms = null;
  start();
}

function element(tag, className, text = "") {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text) node.textContent = text;
  return node;
}

async function copy(button, text) {
  const label = (button.dataset.label ??= button.textContent);
  try {
    await snippets.copy(text);
    button.textContent = "Copied";
    $("said").textContent = `${label}: copied`;
  } catch (error) {
    button.textContent = "Not copied";
    showNotice(`${error.message}. Here it is: ${text}`);
  }
  button.classList.add("is-done");
  setTimeout(() => {
    button.textContent = label;
    button.classList.remove("is-done");
  }, 1600);
}

const themes = ["auto", "light", "dark"];
function showTheme() {
  const { theme } = document.documentElement.dataset;
  $("theme").textContent = `Theme: ${theme}`;
  chart.recolour();
}

function listen() {
  $("slider").addEventListener("input", () => setBudget(fromStep(Number($("slider").value))));
  $("budget").addEventListener("input", () => setBudget($("budget").valueAsNumber, { fromField: true }));
  $("budget").addEventListener("change", () => {
    if (state.budget_ms !== null) $("budget").value = format.typed(state.budget_ms);
  });
  $("bundle").addEventListener("change", () => changeBundle($("bundle").value));
  $("compare").addEventListener("change", async () => {
    state.compare = $("compare").value || null;
    start();
  });
  $("coverage").addEventListener("change", () => {
    if (!current()) return;
    const chosen = Number($("coverage").value);
    state.coverage = chosen === current().body.coverage ? null : chosen;
    showLandscape();
    ask();
  });
  $("zoom-in").addEventListener("click", () => chart.zoomBy(2));
  $("zoom-out").addEventListener("click", () => chart.zoomBy(0.5));
  $("zoom-reset").addEventListener("click", () => chart.reset());
  $("copy-encoding").addEventListener("click", (e) => copy(e.currentTarget, (shown?.architecture ?? infeasible).encoding));
  $("copy-curl").addEventListener("click", (e) => copy(e.currentTarget, snippets.curl(question(), Boolean(api.key.get()))));
  $("copy-python").addEventListener("click", (e) => copy(e.currentTarget, snippets.python(question(), Boolean(api.key.get()))));
  $("copy-export").addEventListener("click", (e) => copy(e.currentTarget, $("export-command").textContent));
  $("download").addEventListener("click", download);
  $("download").addEventListener("click", downloadWithKey);
  $("theme").addEventListener("click", () => {
    const { dataset } = document.documentElement;
    dataset.theme = themes[(themes.indexOf(dataset.theme) + 1) % themes.length];
    try {
      localStorage.setItem("pnag-theme", dataset.theme);
    } catch {
      // storage is off: the choice lasts as long as the page
    }
    showTheme();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => chart.recolour());
  document.fonts.ready.then(() => chart.recolour());
}

/** A link cannot carry a key; where one is needed, fetch the file and hand it over. */
async function downloadWithKey(event) {
  if (!api.key.get()) return;
  event.preventDefault();
  const link = event.currentTarget;
  const response = await fetch(link.href, { headers: api.authorization() });
  if (!response.ok) {
    showNotice(`The model could not be fetched (status ${response.status}).`);
    return;
  }
  const url = URL.createObjectURL(await response.blob());
  Object.assign(document.createElement("a"), { href: url, download: link.download }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

buildCosts();
listen();
showTheme();
start();
